"""Files of weights: what comes back is what was saved, or a line that says why not."""

from __future__ import annotations

import json
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from edufast.models.averaging import average_files
from edufast.models.weights import ModelInfo, load_model, read_info, save_model
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.conftest import UserPackage

INFO = ModelInfo("resnet8", ("a", "b"), (0, 1), "x", 32, (0.4,) * 3, (0.2,) * 3, 0.9, 100, 2.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "m.safetensors", create_model("resnet8", 2), INFO)
    return tmp_path / "m.safetensors"


def same_states(a: nn.Module, b: nn.Module) -> bool:
    states = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(x, y) for (m, x), (n, y) in states)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_model_comes_back_as_it_was(path: Path) -> None:
    torch.manual_seed(0)
    saved = create_model("resnet8", 2)
    loaded, info = load_model(path)
    assert info == read_info(path) == INFO and not loaded.training
    assert same_states(loaded, saved)


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_a_flipped_bit_never_loads_as_something_else(path: Path, merged: bool) -> None:
    """In header, metadata and tensors, of what is saved and of what is merged."""
    if merged:
        average_files([path, path], path)
    good, info, state = path.read_bytes(), read_info(path), load_file(path)
    header = 8 + int.from_bytes(good[:8], "little")
    places = [*range(0, header, 5), *range(header, len(good), len(good) // 200)]
    refused = 0
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found, _ = read_info(path), load_model(path)
        except UserError as error:
            assert "\n" not in str(error) and "m.safetensors" in str(error)
            refused += 1
        else:  # for instance in the name of the hash
            assert repr(found) == repr(info)
            assert all(torch.equal(t, state[name]) for name, t in load_file(path).items())
    assert refused > 0.97 * len(places)


def test_merging_notices_a_flipped_bit_and_writes_nothing(path: Path) -> None:
    good = path.read_bytes()
    other = path.with_name("other.safetensors")
    other.write_bytes(good)
    damaged = bytearray(good)
    damaged[-5] ^= 2
    other.write_bytes(damaged)
    out = path.with_name("out.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors is damaged: its content does"):
        average_files([path, other], out)
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.safetensors", "other.safetensors"]


def test_files_from_before_there_was_a_hash_are_taken(path: Path) -> None:
    save_file(load_file(path), path, {"edufast": json.dumps(asdict(INFO))})
    model, info = load_model(path)
    assert info == INFO
    average_files([path, path], path)
    merged, _ = load_model(path)
    assert same_states(merged, model) and "sha256" in metadata(path)["edufast"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "Invalid JSON"),
        ("[]", "Input should be"),
        ({"model": None}, "model: "),
        ({"classes": []}, r"class_ids are \(0, 1\); expected another one for each of the 0 cl"),
        ({"class_ids": [1, 1]}, r"class_ids are \(1, 1\); expected another one"),
        ({"class_ids": [-1, 1]}, "class_ids: "),
        ({"class_ids": "ab"}, "class_ids: "),
        ({"image_size": 0}, "image_size: "),
        ({"mean": [0.1, 0.2]}, "mean: "),
        ({"std": [0.1, 0.2, 0.0]}, "std: "),
        ({"training_flops": "many"}, "training_flops: "),
    ],
)
def test_malformed_descriptions_are_told_in_a_line(
    path: Path, change: object, message: str
) -> None:
    text = change if isinstance(change, str) else json.dumps(asdict(INFO) | change)
    save_file(load_file(path), path, {"edufast": text})
    for use in (read_info, load_model, lambda p: average_files([p, p], p.with_name("o"))):
        with pytest.raises(
            UserError, match=f"m.safetensors describes its model wrongly: .*{message}"
        ):
            use(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"fc.bias": None}, "it has no tensor 'fc.bias'"),
        ({"fc.bias": torch.zeros(3)}, r"'fc.bias' has the shape \(3,\); expected \(2,\)"),
        ({"extra": torch.zeros(3)}, "it has a tensor 'extra', which the model does not have"),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_a_line(
    path: Path, state: dict[str, object], message: str
) -> None:
    tensors = {k: t for k, t in (load_file(path) | state).items() if t is not None}
    save_file(tensors, path, {"edufast": json.dumps(asdict(INFO))})
    with pytest.raises(UserError, match=f"m.safetensors does not fit resnet8: {message}$"):
        load_model(path)


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_full_disk_is_an_error_of_the_file_system(path: Path, size: int) -> None:
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_model(path, create_model("resnet8", 2), INFO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_state_of_other_things_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(UserError, match=r"'_extra_state' of Odd is a dict; expected .* tensors"):
        save_model(tmp_path / "m.safetensors", Odd(2, 2), INFO)
    with pytest.raises(UserError, match=r"'weight' of Linear is on meta; expected .* values"):
        save_model(tmp_path / "m.safetensors", nn.Linear(2, 2, device="meta"), INFO)
    assert not list(tmp_path.iterdir())


# --- tied weights, and wrappers -----------------------------------------------------------------

NETS = """
    import torch
    from torch import nn

    class Tied(nn.Module):
        \"\"\"One layer under two names, and a buffer that is a part of another.\"\"\"

        def __init__(self, classes):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight
            self.again = self.first
            self.register_buffer("table", torch.randn(4, 8))
            self.register_buffer("rows", self.table[:2])
            self.fc = nn.Linear(8, classes)

    class Untied(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.first, self.second, self.again = (nn.Linear(8, 8) for _ in range(3))
            self.register_buffer("table", torch.randn(4, 8))
            self.register_buffer("rows", torch.randn(2, 8))
            self.fc = nn.Linear(8, classes)
"""


def test_tied_tensors_are_saved_once_and_tied_again(mypackage: UserPackage, tmp_path: Path) -> None:
    mypackage.write(nets=NETS)
    name = "mypackage.nets:Tied"
    torch.manual_seed(0)
    models = [create_model(name, 2) for _ in range(2)]
    info = replace(INFO, model=name)
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for path, model in zip(paths, models, strict=True):
        save_model(path, model, info)
    stored = load_file(paths[0])
    assert not {"second.weight", "again.weight", "again.bias"} & stored.keys()
    assert stored.keys() > {"first.weight", "second.bias", "table", "rows"}
    loaded, _ = load_model(paths[0], model=name)
    assert loaded.second.weight is loaded.first.weight and same_states(loaded, models[0])
    average_files(paths, tmp_path / "average.safetensors")
    averaged, _ = load_model(tmp_path / "average.safetensors", model=name)
    expected = (models[0].second.weight + models[1].second.weight) / 2
    torch.testing.assert_close(averaged.again.weight, expected)
    # Where they are not tied they are missing.
    other = "mypackage.nets:Untied"
    save_file(stored, paths[0], {"edufast": json.dumps(asdict(replace(info, model=other)))})
    with pytest.raises(UserError, match=r"it has no tensor '(second|again)\.(weight|bias)'"):
        load_model(paths[0], model=other)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_models_are_saved_as_themselves(path: Path, wrap: object) -> None:
    torch.manual_seed(0)
    wrapped = path.with_name("wrapped.safetensors")
    save_model(wrapped, wrap(create_model("resnet8", 2)), INFO)
    assert wrapped.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_wrapped_models_are_understood(path: Path, prefix: str) -> None:
    plain, info = load_model(path)
    wrapped = path.with_name("wrapped.safetensors")
    state = {f"{prefix}{name}": tensor + 1 for name, tensor in load_file(path).items()}
    save_file(state, wrapped, {"edufast": json.dumps(asdict(info))})
    loaded, _ = load_model(wrapped)
    assert torch.equal(loaded.fc.weight, plain.fc.weight + 1)
    for files in ([path, wrapped], [wrapped, path], [wrapped, wrapped]):
        average_files(files, path.with_name("out.safetensors"))
        merged, _ = load_model(path.with_name("out.safetensors"))
        steps = sum(file == wrapped for file in files) / 2
        torch.testing.assert_close(merged.fc.weight, plain.fc.weight + steps)
