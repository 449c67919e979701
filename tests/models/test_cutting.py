from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edufast.models.cutting import Cutting, cut
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.models.networks import Block, Residual, run


def names(cutting: Cutting) -> list[str]:
    return [fragment.name for fragment in cutting.fragments]


def mlp() -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))


# One network of every way to build one: stages, flat block lists, branches with concatenation,
# class tokens and attention, a convolution as classifier, no norm, a plain Sequential.
NETWORKS = {
    "resnet20": 32,
    "wrn_16_2": 32,
    "torchvision/resnet18": 64,
    "torchvision/resnet50": 64,
    "torchvision/mobilenet_v2": 64,
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/densenet121": 64,
    "torchvision/convnext_tiny": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/shufflenet_v2_x0_5": 64,
    "torchvision/squeezenet1_1": 64,
    "torchvision/vit_b_32": 224,
    "timm/vit_tiny_patch16_224": 224,
    "timm/mobilenetv3_small_100": 64,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fragments_in_a_row_are_the_model(name: str) -> None:
    if "/" in name:
        pytest.importorskip(name.split("/")[0])
    size = NETWORKS[name]
    model = create_model(name, 10).eval()
    before = copy.deepcopy(model.state_dict())
    cutting = cut(model, 3, input_size=(3, size, size))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(run(cutting, model, x), model(x))
        features = x
        for fragment in cutting.fragments:
            features = fragment(model, features)
            assert features.shape[1:] == fragment.shape
    # Cutting leaves no trace on the model.
    assert not model.training
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    # Every parameter belongs to exactly one fragment, every fragment does a fair part of the work.
    used = [name for fragment in cutting.fragments for name in fragment.parameters]
    assert sorted(used) == sorted(name for name, _ in model.named_parameters())
    total = sum(fragment.flops for fragment in cutting.fragments)
    assert all(total / 9 < fragment.flops < total * 2 / 3 for fragment in cutting.fragments)


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "resnet8x4"])
def test_stages_are_preferred(name: str) -> None:
    cutting = cut(create_model(name, 10), 3, input_size=(3, 32, 32))
    assert names(cutting) == ["layer1", "layer2", "fc"]
    assert cutting.classifier == "fc"


def test_shares_of_resnet20_are_those_of_the_paper() -> None:
    flops = [
        f.flops for f in cut(create_model("resnet20", 10), 3, input_size=(3, 32, 32)).fragments
    ]
    assert [round(100 * sum(flops[: n + 1]) / sum(flops)) for n in range(3)] == [36, 68, 100]


@pytest.mark.parametrize("name", ["resnet8", "torchvision/mobilenet_v2", "torchvision/vit_b_32"])
def test_flops_add_up(name: str) -> None:
    if "/" in name:
        pytest.importorskip("torchvision")
    size = 224 if "vit" in name else 32
    model = create_model(name, 10).eval()
    fragments = cut(model, 2, input_size=(3, size, size)).fragments
    # With gradients attention takes the path of single operators, which the counter knows.
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(torch.randn(1, 3, size, size))
    assert sum(fragment.flops for fragment in fragments) == counter.get_total_flops()


# One fragment (nothing to cut), an even and an odd count, and as many as there are places.
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_any_number_of_fragments(count: int) -> None:
    model = create_model("resnet20", 10).eval()
    cutting = cut(model, count, input_size=(3, 32, 32))
    assert len(cutting.fragments) == count
    assert all(fragment.flops > 0 for fragment in cutting.fragments)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(run(cutting, model, x), model(x))


def test_convolution_norm_and_activation_stay_together() -> None:
    layers = [
        layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 10 * 10, 4))
    assert names(cut(model, 3, input_size=(3, 16, 16))) == ["2", "5", "10"]


def test_named_cuts() -> None:
    model = create_model("resnet20", 10).eval()
    cutting = cut(model, 3, input_size=(3, 32, 32), cuts=["layer1.0", "layer3.1"])
    assert names(cutting) == ["layer1.0", "layer3.1", "fc"]
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(run(cutting, model, x), model(x))


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (["layer1", "layer9"], "'layer9'; possible: relu.*layer1.0.*layer3.1"),
        (["layer1", "layer2.0.conv1"], "cannot cut after 'layer2.0.conv1'"),  # inside a residual
        (["layer2", "layer1"], "order of the data"),
        (["layer1", "layer1"], "each once"),
        (["layer1"], "expected 2 names"),
        ([], "expected 2 names"),
        ("ab", "expected 2 names"),
    ],
)
def test_wrong_cuts_name_what_is_possible(cuts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(create_model("resnet20", 10), 3, input_size=(3, 32, 32), cuts=cuts)


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", 6])
def test_wrong_number_of_fragments(count: object) -> None:
    with pytest.raises(UserError, match="fragments="):
        cut(create_model("resnet8", 10), count, input_size=(3, 32, 32))  # type: ignore[arg-type]


def test_weights_are_those_of_the_model() -> None:
    model = Residual()
    cutting = cut(model, 2, input_size=(8,))
    x = torch.randn(3, 8)
    run(cutting, model, x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        model.fc.bias += 1
    model.eval()
    assert torch.equal(run(cutting, model, x), model(x))


class Windows(nn.Module):
    """Maps (B, H, W, C) between a first and a last convolution, as in Swin."""

    def __init__(self, size: int, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.size = size
        self.embed = nn.Conv2d(3, 8, 1)
        self.norm = norm(8)
        self.block = Block(8)
        self.conv = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        x = self.norm(x).reshape(x.shape[0], -1, 8)
        x = self.block(x).reshape(-1, self.size, self.size, 8)
        return self.fc(self.conv(x.permute(0, 3, 1, 2)).mean((2, 3)))


class OwnNorm(nn.LayerNorm):
    """Its axis cannot be told from its type."""


# 8: as high and wide as there are channels, so that sizes alone tell nothing.
@pytest.mark.parametrize("size", [6, 8])
@pytest.mark.parametrize("norm", [nn.LayerNorm, OwnNorm])
def test_channels_are_found_wherever_they_are(size: int, norm: type[nn.Module]) -> None:
    model = Windows(size, norm)
    places = ["embed", "permute", "reshape", "block", "reshape_1"]
    cutting = cut(model, 6, input_size=(3, size, size), cuts=places)
    assert [f.channels_last for f in cutting.fragments[:-1]] == [False, True, True, True, True]
    assert [f.channels for f in cutting.fragments] == [8] * 5 + [5]
    assert [f.places for f in cutting.fragments] == [size * size] * 5 + [1]


class Mixing(nn.Module):
    """Only matrices of its own: one mixes places, the other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.rand(6, 6))
        self.channels = nn.Parameter(torch.rand(8, 8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.places @ x
        x = (x @ self.channels).relu()
        return self.fc((x * 2).mean(1))


def test_axes_that_nothing_tells_are_refused() -> None:
    message = (
        r"which axis of the features after 'relu', \(6, 8\) for one image, .* possible: matmul"
    )
    with pytest.raises(UserError, match=message):
        cut(Mixing(), 2, input_size=(6, 8), cuts=["relu"])


class Functional(Mixing):
    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.channels).relu()  # (N, C)
        x = F.conv1d(x.transpose(1, 2), self.channels[..., None]).relu()  # (C, N)
        return self.fc(x.mean(2))


def test_functions_tell_the_channels_as_layers_do() -> None:
    cutting = cut(Functional(), 3, input_size=(6, 8), cuts=["relu", "relu_1"])
    assert [f.channels_last for f in cutting.fragments[:-1]] == [True, False]


class Permuted(Windows):
    """Maps (B, C, H, W), but all that has weights sees them as (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).permute(0, 2, 3, 1))
        x = self.norm(x.permute(0, 3, 1, 2).relu().permute(0, 2, 3, 1))
        return self.fc(x.mean((1, 2)))


def test_channels_behind_permutations_are_told_by_their_number() -> None:
    first, _ = cut(Permuted(6), 2, input_size=(3, 6, 6), cuts=["relu"]).fragments
    assert first.shape == (8, 6, 6) and not first.channels_last
    with pytest.raises(UserError, match=r"after 'relu', \(8, 8, 8\) for one image"):
        cut(Permuted(8), 2, input_size=(3, 8, 8), cuts=["relu"])


class Shared(nn.Module):
    """One weight used in two fragments, read directly; an optional argument; a token."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("shift", torch.rand(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.first(x) * self.scale + self.shift
        if mask is not None:
            x = x * mask
        return self.fc(self.second(x * self.scale) * self.scale + self.shift)


def test_weights_read_by_several_fragments() -> None:
    model = Shared()
    cutting = cut(model, 2, input_size=(8,))
    x = torch.randn(3, 8)
    model.double()  # a cast replaces the buffers: fragments must see the new ones
    assert torch.equal(run(cutting, model, x.double()), model(x.double()))
    assert all("scale" in fragment.parameters for fragment in cutting.fragments)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class RootBranch(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class RootConstant(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.ones(8))


class TwoOutputs(Residual):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


class TwoOutputsInTraining(Residual):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (super().forward(x), x) if self.training else super().forward(x)


class LogitsTwiceInTraining(Residual):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TwoInputs(), "TwoInputs fails on images .*'y'"),
        (RootBranch(), "cannot trace RootBranch.forward"),
        (RootConstant(), "cannot trace RootConstant.forward.*buffer"),
        (TwoOutputs(), "cannot find the classifier of TwoOutputs"),
        (TwoOutputsInTraining(), "train and eval"),
        (LogitsTwiceInTraining(), "train and eval"),
        (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), "cannot find the classifier"),
        (nn.Sequential(nn.Linear(8, 12), nn.Unflatten(1, (3, 4))), "cannot find the classifier"),
        (nn.Sequential(nn.Linear(9, 5)), r"fails on images of input_size=\(8,\)"),
    ],
)
def test_models_that_cannot_be_cut(model: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(model, 1, input_size=(8,))
    assert not any(name.startswith("_tensor_constant") for name in vars(model))


def test_mlp_without_images() -> None:
    model = mlp().eval()
    cutting = cut(model, 3, input_size=(3, 4, 4))
    assert [fragment.shape for fragment in cutting.fragments] == [(16,), (16,), (5,)]
