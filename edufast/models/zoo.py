"""Networks by name: the CIFAR networks of the literature, those of libraries, and users' own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edufast.utils.errors import UserError, one_line, unknown
from edufast.utils.extras import needed_for
from edufast.utils.hub import is_missing
from edufast.utils.numbers import MOST_CLASSES, whole_number
from edufast.utils.registry import Registry


def create_model(name: str, num_classes: int) -> nn.Module:
    """Build the classifier ``name`` with random weights; nothing is ever downloaded.

    Trained weights are read by :func:`edufast.models.pretrained.started`.

    Args:
        name: one of :func:`list_models`, ``"torchvision/<name>"``, ``"timm/<name>"``, or
            ``"hf/<model type>"`` for a Hugging Face image classifier of the type's default size,
            ``"hf/<owner>/<name>"`` for one of the hub whose configuration is on this machine, where
            downloading its weights leaves it. Or a model of your own, registered, by its import
            path such as ``mypackage.nets:tiny``, or as an entry point of the group
            ``edufast.models``: a function of the number of classes that returns an ``nn.Module``,
            or a class. It maps images (B, 3, H, W) to logits (B, num_classes).
        num_classes: width of the logits, from 1 to a million.

    Raises:
        UserError: the name is unknown (near matches are listed), the library it comes from is not
            installed, the user's code fails, or ``num_classes`` is no such integer.
    """
    try:
        num_classes = whole_number("num_classes", num_classes, 1, MOST_CLASSES)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(name, str):
        raise UserError(f"name is of type {type(name).__name__}; expected a model's name")
    library, _, entry = name.partition("/")
    if library == "torchvision":
        models = import_library(library).models
        names = models.list_models(module=models)
        _check_known(name, entry in names, [f"{library}/{other}" for other in names])
        return models.get_model(entry, weights=None, num_classes=num_classes)
    if library == "timm":
        timm = import_library(library)
        names = timm.list_models()
        _check_known(name, timm.is_model(entry), [f"{library}/{other}" for other in names])
        return timm.create_model(entry, pretrained=False, num_classes=num_classes)
    if library == "hf":
        transformers = import_library("transformers")
        if "/" in entry:
            config = _hub_config(name, entry, num_classes)
        else:
            auto = import_library("transformers.models.auto.modeling_auto")
            types = list(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
            _check_known(name, entry in types, [f"hf/{other}" for other in types])
            config = transformers.AutoConfig.for_model(entry, num_labels=num_classes)
        with _usable(name):
            return Logits(transformers.AutoModelForImageClassification.from_config(config))
    return MODELS.call(name, num_classes)


def list_models() -> list[str]:
    """Names of the networks defined here and of registered ones, for :func:`create_model`."""
    return list(MODELS)


_EXTRAS = {"timm": "timm", "torchvision": "train", "transformers": "hf"}  # of pyproject.toml


class Logits(nn.Module):
    """Wraps a Hugging Face image classifier: images (B, 3, H, W) to logits (B, classes).

    A student may also be made from ``model`` itself, and then graduates as such. Teachers, export
    and evaluation need plain logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), projected where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6n+2 (He et al. 2016, section 4.2) with projection shortcuts.

    Images (B, 3, H, W) with H, W >= 8 to logits (B, num_classes). This is the variant used by
    RepDistiller and mdistiller, where ``x4`` stands for ``widths=(32, 64, 128, 256)``.
    """

    def __init__(
        self, depth: int, num_classes: int, widths: Sequence[int] = (16, 16, 32, 64)
    ) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth, 2, 6)
        stem, first, second, third = widths
        self.conv1 = _conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(BasicBlock, blocks, stem, first, 1)
        self.layer2 = _stage(BasicBlock, blocks, first, second, 2)
        self.layer3 = _stage(BasicBlock, blocks, second, third, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActBlock(nn.Module):
    """Norm and ReLU before each 3x3 convolution (Zagoruyko & Komodakis 2016, B(3, 3))."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        # The projection reads the activated input, the identity the raw one, as in the original.
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.relu(self.bn2(self.conv1(activated)))) + shortcut


class WideResNet(nn.Module):
    """Wide ResNet of depth 6n+4 (Zagoruyko & Komodakis 2016) without dropout.

    Images (B, 3, H, W) with H, W >= 8 to logits (B, num_classes).
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth, 4, 6)
        self.conv1 = _conv3x3(3, 16)
        self.layer1 = _stage(PreActBlock, blocks, 16, 16 * widen, 1)
        self.layer2 = _stage(PreActBlock, blocks, 16 * widen, 32 * widen, 2)
        self.layer3 = _stage(PreActBlock, blocks, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * widen, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.relu(self.bn1(x))), 1))


def _resnet50_cifar(num_classes: int) -> nn.Module:
    """torchvision's ResNet-50 for 32x32 pixels: a 3x3 stem with stride 1 and no pooling."""
    torchvision = import_library("torchvision")
    model = torchvision.models.resnet50(weights=None, num_classes=num_classes)
    model.conv1 = _conv3x3(3, 64)
    model.maxpool = nn.Identity()
    _initialise(model)
    return model


# Expansion, channels before halving, blocks, stride. The 24 channels have the stem's resolution.
_MOBILENET_CIFAR = [
    [1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2],
    [6, 320, 1, 1],
]  # fmt: skip


def _mobilenetv2_half(num_classes: int) -> nn.Module:
    """torchvision's MobileNetV2 with half width for 32x32 pixels, as used in the distillation
    literature: with one stride of 2 less, channels halved exactly, and without dropout. The
    literature's has ReLU for ReLU6 and a further 1x1 convolution in the first block (288
    parameters)."""
    return import_library("torchvision").models.MobileNetV2(
        num_classes, 0.5, _MOBILENET_CIFAR, round_nearest=1, dropout=0.0
    )


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _stage(
    block: Callable[[int, int, int], nn.Module],
    count: int,
    in_channels: int,
    channels: int,
    stride: int,
) -> nn.Sequential:
    rest = (block(channels, channels, 1) for _ in range(count - 1))
    return nn.Sequential(block(in_channels, channels, stride), *rest)


def _blocks_per_stage(depth: int, extra: int, per_block: int) -> int:
    if depth <= extra or (depth - extra) % per_block:
        raise ValueError(f"depth={depth}: expected {per_block}n+{extra} with n >= 1")
    return (depth - extra) // per_block


def _initialise(model: nn.Module) -> None:
    """Kaiming-normal convolutions; the linear layer and norms keep PyTorch's initialisation."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _resnet(depth: int, widths: Sequence[int] = (16, 16, 32, 64)) -> Callable[[int], nn.Module]:
    return lambda num_classes: ResNet(depth, num_classes, widths)


def _wide_resnet(depth: int, widen: int) -> Callable[[int], nn.Module]:
    return lambda num_classes: WideResNet(depth, widen, num_classes)


MODELS: Registry[Callable[[int], nn.Module]] = Registry(
    "model",
    "edufast.models",
    nn.Module,
    {
        **{f"resnet{depth}": _resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
        **{f"resnet{depth}x4": _resnet(depth, (32, 64, 128, 256)) for depth in (8, 32)},
        **{f"wrn_{depth}_2": _wide_resnet(depth, 2) for depth in (16, 40)},
        "mobilenetv2_half": _mobilenetv2_half,
        "resnet50_cifar": _resnet50_cifar,
    },
    also="torchvision/<name>, timm/<name>, hf/<model type>, hf/<owner>/<name>",
)

register_model = MODELS.register


def _hub_config(name: str, repository: str, num_classes: int) -> Any:
    """Of a Hugging Face model, as an earlier download left it on this machine."""
    transformers = import_library("transformers")
    with _usable(name):
        return transformers.AutoConfig.from_pretrained(
            repository, num_labels=num_classes, local_files_only=True, trust_remote_code=False
        )


@contextmanager
def _usable(name: str) -> Iterator[None]:
    """Whatever the configuration of a Hugging Face model makes its library run into is one line."""
    try:
        yield
    except Exception as error:
        if is_missing(error):
            raise UserError(
                f"model {name!r}: its configuration is not on this machine; expected weights: "
                "pretrained once, which downloads it"
            ) from error
        raise UserError(
            f"model {name!r}: its configuration does not make a network: {one_line(error)}"
        ) from error


def import_library(library: str) -> ModuleType:
    """A package that models come from.

    Raises:
        UserError: it is not installed.
    """
    with needed_for("this model", _EXTRAS[library.partition(".")[0]]):
        return importlib.import_module(library)


def _check_known(name: str, found: bool, known: Sequence[str]) -> None:
    if not found:
        raise unknown("model", name, known)
