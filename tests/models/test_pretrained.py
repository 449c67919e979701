"""Networks that start from trained weights: what is read, what is replaced, what is refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edufast.models.pretrained import Start, started
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from edufast.utils import hub
from edufast.utils.errors import UserError
from tests.tiny import tiny_data

INFO = ModelInfo(
    "resnet8", ("a", "b", "c"), (0, 1, 2), "x", 24, (0.4,) * 3, (0.2,) * 3, 0.9, 100, 2.5
)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HEAD = {"fc.weight", "fc.bias"}


def network(name: str = "resnet8", classes: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return create_model(name, classes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file of EduFast's."""
    save_model(tmp_path / "m.safetensors", network(), INFO)
    return tmp_path / "m.safetensors"


def same(found: nn.Module, expected: nn.Module, but: set[str] = frozenset()) -> None:
    """All tensors but those, which differ."""
    for name, tensor in found.state_dict().items():
        assert (name in but) != torch.equal(tensor, expected.state_dict()[name]), name


def told(name: str, weights: Path | str, classes: int = 3) -> str:
    with pytest.raises(UserError) as caught:
        started(name, classes, weights)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files ---------------------------------------------------------------------------------------


def test_without_weights_a_network_is_random_and_nothing_is_said() -> None:
    torch.manual_seed(1)
    start = started("resnet8", 3, None)
    same(start.model, network())
    assert start[1:] == (frozenset(), None, "")


def test_a_file_of_as_many_classes_is_taken_whole(saved: Path) -> None:
    start = started("resnet8", 3, saved)
    same(start.model, network())
    assert start.learned == {name for name, _ in network().named_parameters()}
    assert start.summary == f"resnet8 starts from {saved}; it was trained on images of 24 pixels"


def test_a_head_of_another_number_of_classes_is_replaced_and_that_is_said(saved: Path) -> None:
    start = started("resnet8", 7, saved)
    other = network(classes=7)
    other.load_state_dict(
        {n: t for n, t in network().state_dict().items() if n not in HEAD}, strict=False
    )
    same(start.model, other, HEAD)
    assert start.model(torch.zeros(1, 3, 24, 24)).shape == (1, 7)
    names = {name for name, _ in network().named_parameters()}
    assert start.learned == names - HEAD
    assert "; its head of 3 classes is replaced by one of 7; " in start.summary


def test_data_are_shown_as_the_weights_learned_from_them(saved: Path) -> None:
    data = tiny_data()
    shown = started("resnet8", 6, saved).shown(data)
    assert (shown.mean, shown.std) == (INFO.mean, INFO.std)
    assert replace(shown, mean=data.mean, std=data.std) == data
    assert Start(network()).shown(data) is data


def plain(state: dict[str, Tensor], path: Path) -> None:
    save_file(state, path)


def wrapped(state: dict[str, Tensor], path: Path) -> None:
    """As data parallelism under torch.compile has it, in a checkpoint of a script."""
    torch.save(
        {"epoch": 3, "state_dict": {f"module._orig_mod.{n}": t for n, t in state.items()}}, path
    )


def before_torch_1(state: dict[str, Tensor], path: Path) -> None:
    kept = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(kept, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (plain, "m.safetensors"),
        (torch.save, "m.pth"),
        (torch.save, "m.bin"),
        (torch.save, "m.ckpt"),
        (wrapped, "m.pt"),
        (before_torch_1, "m.pth"),
    ],
)
def test_checkpoints_of_others_are_read(
    write: Callable[[dict[str, Tensor], Path], None], name: str, tmp_path: Path
) -> None:
    write(network(classes=5).state_dict(), tmp_path / name)
    start = started("resnet8", 3, tmp_path / name)
    assert torch.equal(start.model.conv1.weight, network(classes=5).conv1.weight)
    assert "its head of 5 classes is replaced by one of 3" in start.summary
    assert start.images is None


def test_a_checkpoint_without_a_head_gets_one(tmp_path: Path) -> None:
    state = {n: t for n, t in network().state_dict().items() if n not in HEAD}
    save_file(state, tmp_path / "m.safetensors")
    start = started("resnet8", 3, tmp_path / "m.safetensors")
    assert "its missing head is replaced by one of 3" in start.summary
    assert not HEAD & start.learned


def as_meta(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.to("meta") for name, tensor in state.items()}


def test_a_layer_as_wide_as_there_are_classes_is_no_head(tmp_path: Path) -> None:
    for change in (lambda s: s.pop("bn1.weight"), lambda s: s.update({"bn1.weight": ONES})):
        state = network(classes=5).state_dict()
        change(state)
        torch.save(state, tmp_path / "m.pt")
        with pytest.raises(UserError, match=r"does not fit: 'bn1.weight': .*; expected \(16,\)$"):
            started("resnet8", 16, tmp_path / "m.pt")


ONES = torch.ones(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.weight"), "does not fit: 'conv1.weight': there is none; expected"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(16, 3, 5, 5)}),
            "'conv1.weight': it has the shape (16, 3, 5, 5); expected (16, 3, 3, 3)",
        ),
        (
            lambda s: s.update({"fc.weight": torch.zeros(5, 7)}),
            "'fc.weight': it has the shape (5, 7); expected (3, 64)",
        ),
        (lambda s: s.update(more=torch.zeros(1)), "a tensor 'more', which the model does not have"),
        (lambda s: s.update({3: torch.zeros(1)}), "a tensor is called 3; expected names"),
        (lambda s: s.update({(): torch.zeros(1)}), "a tensor is called (); expected names"),
        (lambda s: s.update(as_meta(s)), "'conv1.weight' is torch.strided on meta; expected a de"),
        (lambda s: s["conv1.weight"].fill_(math.nan), "'conv1.weight' holds NaN; expected numbers"),
        (
            lambda s: s.update({"conv1.weight": s["conv1.weight"].to_sparse()}),
            "'conv1.weight' is torch.sparse_coo on cpu; expected a dense tensor",
        ),
        (
            lambda s: s.update({"conv1.weight": s["conv1.weight"] + 1j}),
            "'conv1.weight' has dtype torch.complex64; expected numbers for a torch.float32",
        ),
        (
            lambda s: s.update({"conv1.weight": s["conv1.weight"] > 0}),
            "'conv1.weight' has dtype torch.bool; expected numbers for a torch.float32",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    state = network(classes=5).state_dict()
    change(state)
    torch.save(state, tmp_path / "m.pt")
    assert message in told("resnet8", tmp_path / "m.pt")


class Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import tests.models.test_pretrained as t; t.Evil.ran = True",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "not a file of tensors and plain data"),
        ({"state_dict": Evil()}, "not a file of tensors and plain data"),
        ({"a": 1}, "'a' is a int; expected a state dict of tensors"),
        ({}, "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
    ],
)
def test_nothing_but_tensors_is_unpickled(content: Any, message: str, tmp_path: Path) -> None:
    for name, save in (("m.pt", torch.save), ("m.bin", _pickle)):
        save(content, tmp_path / name)
        if name == "m.pt" or isinstance(content, Evil):
            assert message in told("resnet8", tmp_path / name)
    assert not Evil.ran


def _pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def test_a_damaged_file_is_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-5] ^= 2
    saved.write_bytes(content)
    assert "is damaged: its content does not match its hash" in told("resnet8", saved)
    saved.write_bytes(b"nothing")
    assert "not a readable safetensors file" in told("resnet8", saved)
    torch.save(network().state_dict(), tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes((tmp_path / "m.pt").read_bytes()[:1000])
    assert "not a file of tensors and plain data" in told("resnet8", tmp_path / "m.pt")
    assert "no model at" in told("resnet8", tmp_path / "none.safetensors")


def test_a_file_of_another_model_is_refused(saved: Path) -> None:
    assert told("resnet20", saved).endswith(
        "holds the weights of resnet8; expected those of resnet20"
    )


# --- libraries -----------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_answers", lambda url: False)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of Hugging Face's hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("no_network")
def test_published_weights_of_timm_come_from_the_cache(hub_cache: Path) -> None:
    timm = pytest.importorskip("timm")
    published = timm.create_model("test_resnet", num_classes=1000)
    repository = published.pretrained_cfg["hf_hub_id"].replace("/", "--")
    folder = hub_cache / f"models--{repository}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1" * 40)
    (folder / "snapshots" / ("1" * 40)).mkdir(parents=True)
    save_file(published.state_dict(), folder / "snapshots" / ("1" * 40) / "model.safetensors")
    start = started("timm/test_resnet", 5, "pretrained")
    assert torch.equal(start.model.conv1[0].weight, published.conv1[0].weight)
    assert "its head of 1,000 classes is replaced by one of 5" in start.summary
    assert start.images is not None and start.images.size == 160
    assert start.images.mean == tuple(published.pretrained_cfg["mean"])


@pytest.mark.usefixtures("no_network")
def test_published_weights_of_torchvision_come_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    offered = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT
    published = torchvision.models.squeezenet1_1()
    (tmp_path / "checkpoints").mkdir()
    torch.save(published.state_dict(), tmp_path / "checkpoints" / Path(offered.url).name)
    start = started("torchvision/squeezenet1_1", 5, "pretrained")
    assert torch.equal(start.model.features[0].weight, published.features[0].weight)
    assert (start.images, start.learned & {"classifier.1.weight"}) == ((*IMAGENET, 224), set())


@pytest.mark.usefixtures("no_network")
def test_a_hugging_face_model_starts_from_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=9
    )
    published = transformers.ResNetForImageClassification(config)
    published.save_pretrained(tmp_path / "someone" / "tiny")
    processor = transformers.ViTImageProcessor(size={"height": 48, "width": 48})
    processor.save_pretrained(tmp_path / "someone" / "tiny")
    monkeypatch.chdir(tmp_path)
    start = started("hf/someone/tiny", 5, "pretrained")
    found = start.model.model.resnet.embedder.embedder.convolution.weight
    assert torch.equal(found, published.resnet.embedder.embedder.convolution.weight)
    assert "its head of 9 classes is replaced by one of 5" in start.summary
    assert start.images == ((0.5,) * 3, (0.5,) * 3, 48)
    assert start.model(torch.zeros(1, 3, 48, 48)).shape == (1, 5)
    file = tmp_path / "someone" / "tiny" / "model.safetensors"
    again = started("hf/someone/tiny", 5, file)  # names without those of our wrapper
    assert torch.equal(again.model.model.resnet.embedder.embedder.convolution.weight, found)


@pytest.mark.parametrize("name", ["timm/mobilenetv3_small_100", "hf/microsoft/resnet-18"])
@pytest.mark.usefixtures("no_network", "hub_cache")
def test_without_a_network_there_is_one_line(name: str) -> None:
    pytest.importorskip(name.split("/")[0].replace("hf", "transformers"))
    assert told(name, "pretrained").startswith(
        f"the weights of {name} are not on this machine, and"
    )


@pytest.mark.usefixtures("no_network")
def test_without_a_network_torchvision_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert "download.pytorch.org does not answer" in told("torchvision/resnet18", "pretrained")


@pytest.mark.parametrize(
    "name", ["resnet8", "hf/resnet", "torchvision/squeezenet1_1", "timm/resnet18"]
)
def test_where_nobody_published_weights_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "/" in name:
        library = pytest.importorskip(name.split("/")[0].replace("hf", "transformers"))
    if name == "torchvision/squeezenet1_1":
        monkeypatch.setattr(library.models, "get_model_weights", lambda name: [])
    if name == "timm/resnet18":
        monkeypatch.setattr(library.models, "is_model_pretrained", lambda name: False)
    assert told(name, "pretrained").startswith(f"weights: there are none published of {name!r}")


def test_files_for_models_of_libraries_are_shown_images_as_published_ones(tmp_path: Path) -> None:
    for name, size in (("timm/test_resnet", 160), ("torchvision/squeezenet1_1", 224)):
        pytest.importorskip(name.split("/")[0])
        torch.save(create_model(name, 4).state_dict(), tmp_path / "m.pt")
        images = started(name, 5, tmp_path / "m.pt").images
        assert images is not None and images.size == size
