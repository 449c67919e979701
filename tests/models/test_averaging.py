"""Moving averages, and averaging of files."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import edufast.models.averaging
from edufast.models.averaging import ExponentialMovingAverage, average_files
from edufast.models.weights import ModelInfo, load_model, save_model
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.models.batch_norms import small_model, train_a_little

# --- exponential moving average -------------------------------------------------------------------


def test_moving_average_is_that_of_timm() -> None:
    timm_utils = pytest.importorskip("timm.utils")
    model = small_model()
    ours = ExponentialMovingAverage(model, 0.9)
    theirs = timm_utils.ModelEmaV3(model, decay=0.9)
    for step in range(5):
        train_a_little(model, seed=step)
        ours.update()
        theirs.update(model)
    expected = theirs.module.state_dict()
    assert ours.averages.keys() == expected.keys()
    for name, tensor in ours.averages.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert ours.averages["1.num_batches_tracked"] == 5


def test_average_is_applied_and_taken_back() -> None:
    model = small_model()
    ema = ExponentialMovingAverage(model, 0.5)
    train_a_little(model)
    now = {name: t.clone() for name, t in model.state_dict().items()}
    ema.update()
    with pytest.raises(KeyError), ema.applied():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, ema.averages[name])
        raise KeyError
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, now[name])
    other = small_model()
    ema.copy_to(other)
    assert torch.equal(other[0].weight, ema.averages["0.weight"])


def test_average_resumes_from_its_state() -> None:
    model = small_model()
    ema = ExponentialMovingAverage(model, 0.5)
    train_a_little(model)
    ema.update()
    state = pickle.loads(pickle.dumps(ema.state_dict()))
    model_again, ema_again = copy.deepcopy((model, ema))
    fresh = ExponentialMovingAverage(model, 0.9)
    fresh.load_state_dict(state)
    train_a_little(model)
    train_a_little(model_again)
    for average in (ema, ema_again, fresh):
        average.update()
        for name, tensor in ema.averages.items():
            assert torch.equal(average.averages[name], tensor), name


def test_average_follows_a_model_whose_memory_moves() -> None:
    model = small_model()
    ema = ExponentialMovingAverage(model, 0.0)
    model.to(memory_format=torch.channels_last)
    train_a_little(model)
    ema.update()
    assert torch.equal(ema.averages["0.weight"], model[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_average_of_a_coarse_type_does_not_stall(dtype: torch.dtype) -> None:
    model = nn.Conv2d(2, 2, 2).to(dtype).to(memory_format=torch.channels_last)
    nn.init.constant_(model.weight, 0.125)
    ema = ExponentialMovingAverage(model, 0.999)
    nn.init.constant_(model.weight, 1.0)
    for _ in range(3000):
        ema.update()
    expected = torch.full_like(model.weight, 1 - 0.875 * 0.999**3000, dtype=torch.float32)
    average = ema.averages["weight"]
    torch.testing.assert_close(average, expected, rtol=1e-4, atol=0)
    assert average.is_contiguous(memory_format=torch.channels_last)
    with ema.applied():
        assert model.weight.dtype == dtype and torch.equal(model.weight, expected.to(dtype))
    assert torch.equal(model.weight, torch.ones_like(model.weight))
    again = ExponentialMovingAverage(model, 0.5)
    again.load_state_dict(ema.state_dict())
    assert torch.equal(again.averages["weight"], average)
    before_float32 = {name: p.detach() for name, p in model.named_parameters()}
    again.load_state_dict({"decay": 0.5, "averages": before_float32})
    assert torch.equal(again.averages["weight"], model.weight.float())


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_average_of_a_wrapped_model_is_that_of_the_model(wrap: Callable[..., nn.Module]) -> None:
    model = small_model()
    plain, wrapped = ExponentialMovingAverage(model), ExponentialMovingAverage(wrap(model))
    state = {f"_orig_mod.{name}": t + 1 for name, t in plain.averages.items()}
    plain.load_state_dict({"decay": 0.9, "averages": state})
    wrapped.load_state_dict(plain.state_dict())
    train_a_little(model)
    plain.update()
    wrapped.update()
    assert plain.averages.keys() == wrapped.averages.keys()
    other = small_model()
    wrapped.copy_to(wrap(other))
    assert torch.equal(other[0].weight, plain.averages["0.weight"])


def test_average_refuses_what_does_not_fit() -> None:
    ema = ExponentialMovingAverage(small_model())
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        ema.update(decay=1.5)
    with pytest.raises(ValueError, match=r"model lacks '0\.bias'"):
        ema.copy_to(nn.Linear(2, 3))
    state = ema.state_dict()
    del state["averages"]["0.bias"]
    with pytest.raises(ValueError, match=r"state lacks '0\.bias'"):
        ema.load_state_dict(state)


# --- averaging files ----------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    paths = []
    for k in range(3):
        torch.manual_seed(k)
        model = small_model()
        train_a_little(model, steps=2, seed=k)
        paths.append(tmp_path / f"{k}.safetensors")
        state = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
        state["half"] = torch.randn(3).to(torch.bfloat16)
        state["empty"] = torch.zeros(0, 4)
        state["flag"] = torch.tensor([k == 2, False])
        save_file(state, paths[-1], metadata={"kind": "test", "number": str(k)})
    return paths


def test_average_of_files(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "sub" / "average.safetensors"
    average_files(three, out, [1, 1, 2])
    states = [load_file(path) for path in three]
    got = load_file(out)
    assert list(got) == list(load_file(out)) and got.keys() == states[0].keys()
    w = (0.25, 0.25, 0.5)
    for name, tensor in got.items():
        parts = [s[name].double() for s in states]
        assert tensor.dtype == states[0][name].dtype
        if name == "1.running_var":
            means = [s["1.running_mean"].double() for s in states]
            mean = sum(x * m for x, m in zip(w, means, strict=True))
            parts = [v + (m - mean).square() for v, m in zip(parts, means, strict=True)]
        if tensor.is_floating_point():
            expected = sum(x * p for x, p in zip(w, parts, strict=True))
            torch.testing.assert_close(tensor, expected.to(tensor.dtype), rtol=1e-2, atol=1e-6)
    assert got["1.num_batches_tracked"] == 2 and got["flag"].tolist() == [True, False]
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"kind": "test"}


def test_one_file_is_copied_bit_for_bit(three: list[Path]) -> None:
    before = load_file(three[0])
    before = {name: t.clone() for name, t in before.items()}
    average_files(three[:1], three[0])  # onto itself
    after = load_file(three[0])
    assert all(torch.equal(after[name], t) for name, t in before.items())


def test_merged_model_can_be_loaded(tmp_path: Path) -> None:
    names = ("a", "b")
    info = ModelInfo("resnet8", names, (0, 1), "x", 32, (0.0,) * 3, (1.0,) * 3, 0.9, 100)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    models = [create_model("resnet8", 2) for _ in paths]
    for path, model in zip(paths, models, strict=True):
        save_model(path, model, info)
    average_files(paths, tmp_path / "c.safetensors")
    merged, got = load_model(tmp_path / "c.safetensors")
    assert math.isnan(got.accuracy) and got.training_flops == 200 and got.classes == names
    expected = (next(models[0].parameters()) + next(models[1].parameters())) / 2
    torch.testing.assert_close(next(merged.parameters()), expected)

    save_model(paths[1], models[1], ModelInfo(**{**info.__dict__, "data": "y"}))
    with pytest.raises(UserError, match=r"data is 'x' in .*a.safetensors, but 'y' in .*b.safete"):
        average_files(paths, tmp_path / "c.safetensors")


def test_streams_one_tensor_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts bytes of tensors alive that came from the files or go into the new one."""
    size = 50_000
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for path in paths:
        save_file({f"t{i}": torch.randn(size) for i in range(12)}, path)
    alive, peak = 0, 0

    def track(tensor: Tensor) -> Tensor:
        nonlocal alive, peak
        bytes_ = tensor.numel() * tensor.element_size()
        alive += bytes_
        peak = max(peak, alive)

        def gone() -> None:
            nonlocal alive
            alive -= bytes_

        weakref.finalize(tensor, gone)
        return tensor

    class Tracked:
        def __init__(self, file: object) -> None:
            self._file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def get_tensor(self, name: str) -> Tensor:
            return track(self._file.get_tensor(name).clone())

    real_open, real_empty = edufast.models.averaging.open_tensors, torch.empty_like

    @contextmanager
    def tracked_open(path: Path) -> Iterator[Tracked]:
        with real_open(path) as file:
            yield Tracked(file)

    monkeypatch.setattr(edufast.models.averaging, "open_tensors", tracked_open)
    monkeypatch.setattr(torch, "empty_like", lambda t: track(real_empty(t)))
    average_files(paths, tmp_path / "out.safetensors")
    assert size * 4 * 3 <= peak <= size * 4 * 3.5
    assert alive <= size * 4 * 3


def test_damaged_and_unfitting_files_are_named(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    state = load_file(three[1])
    state = {name: t.clone() for name, t in state.items()}

    def fails(message: str, *, weights: list[float] | None = None) -> None:
        with pytest.raises(UserError, match=message):
            average_files(three, out, weights)
        assert not out.exists()
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

    fails("weights are", weights=[1.0, 2.0])
    fails("weights are", weights=[1.0, -2.0, 4.0])
    fails("weights are", weights=[0.0, 0.0, 0.0])
    save_file({**state, "0.bias": torch.zeros(9)}, three[1])
    fails(r"'0.bias' is F32 \[4\] in .*0.safetensors, but F32 \[9\] in .*1.safetensors")
    save_file({**state, "half": torch.zeros(3)}, three[1])
    fails(r"'half' is BF16 \[3\] in .*, but F32 \[3\] in .*1.safetensors")
    save_file({**state, "extra": torch.zeros(1)}, three[1])
    fails(r"1.safetensors has a tensor 'extra', but .*0.safetensors does not")
    del state["half"]
    save_file(state, three[1])
    fails(r"0.safetensors has a tensor 'half', but .*1.safetensors does not")
    whole = three[2].read_bytes()
    for damaged in (b"", whole[:4], whole[:-5], b"\xff" * 64, b"not safetensors"):
        three[1].write_bytes(damaged)
        fails("1.safetensors is not a readable safetensors file")
    three[1].unlink()
    fails("no model at .*1.safetensors")
    with pytest.raises(UserError, match="no files"):
        average_files([], out)
    with pytest.raises(UserError, match="is a folder"):
        average_files(three, tmp_path)


def test_the_header_is_that_of_safetensors(three: list[Path], tmp_path: Path) -> None:
    """Aligned data, offsets without holes: other readers insist on it."""
    out = tmp_path / "out.safetensors"
    average_files(three, out)
    raw = out.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    offsets = sorted(entry["data_offsets"] for entry in header.values())
    assert length % 8 == 0 and offsets[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(offsets))
    assert offsets[-1][1] == len(raw) - 8 - length


def test_an_average_takes_no_tensors_of_other_shapes():
    model = torch.nn.Linear(3, 2)
    ema = ExponentialMovingAverage(model)
    state = {"decay": 0.9, "averages": {"weight": torch.zeros(1, 3), "bias": torch.zeros(2)}}
    with pytest.raises(ValueError, match=r"state has 'weight' of shape \(1, 3\)"):
        ema.load_state_dict(state)
    with pytest.raises(ValueError, match=r"\(2, 4\); expected \(2, 3\)"):
        ema.copy_to(torch.nn.Linear(4, 2))
    assert torch.equal(ema.averages["weight"], model.weight) and ema.decay == 0.999
