"""What all contestants share: models, data, batch size, loss and optimiser."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from edufast.data import Augment, DataSet, Samples
from edufast.models.zoo import create_model
from edufast.utils.choices import Precision

TEMPERATURE, ALPHA = 4.0, 0.1  # of the repositories: 0.1 cross-entropy + 0.9 distillation
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # CIFAR-100's
TEACHERS = 3


@dataclass(frozen=True)
class Pair:
    """Teachers of one architecture, which know a third of the classes each, and their student.

    Attributes:
        teacher, student: names for :func:`edufast.models.zoo.create_model`.
        image_size: height and width in pixels.
        classes: number of classes, a multiple of ``TEACHERS``.
        samples: of an epoch; CIFAR-100's by default.
    """

    teacher: str
    student: str
    image_size: int = 32
    classes: int = 99
    samples: int = 50_000

    @property
    def name(self) -> str:
        """Teacher and student, such as "resnet110-resnet20"."""
        return "-".join(model.rpartition("/")[2] for model in (self.teacher, self.student))


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("resnet110", "resnet20"),
        Pair("resnet32x4", "resnet8x4"),
        Pair("torchvision/resnet50", "torchvision/mobilenet_v2", 224, 999, samples=4096),
    )
}


@dataclass
class Setting:
    """One contest.

    Attributes:
        data: to train and validate on.
        teachers: trained or not, in eval mode; teacher k knows the classes of ``slices[k]``.
        slices: (start, stop) of each teacher's classes.
        student: in its initial state; every contestant trains a copy.
        batch_size: images per step.
        device: of all contestants.
        augment: pad, crop and flip, as usual for CIFAR.
        lr: learning rate.
        seed: of the order of the samples and their augmentation.
    """

    data: DataSet
    teachers: list[nn.Module]
    slices: list[tuple[int, int]]
    student: nn.Module
    batch_size: int
    device: torch.device
    augment: Augment = field(default_factory=Augment)
    lr: float = LR
    seed: int = 0

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return (3, self.data.image_size, self.data.image_size)

    def new_student(self) -> nn.Module:
        """A copy of the student in its initial state, contiguous, on the device."""
        return copy.deepcopy(self.student).to(self.device)

    def new_teachers(self) -> list[nn.Module]:
        """Frozen copies of the teachers, contiguous, on the device."""
        return [
            copy.deepcopy(t).eval().requires_grad_(False).to(self.device) for t in self.teachers
        ]


def synthetic(pair: Pair, batch_size: int, device: torch.device) -> Setting:
    """A contest on random images: speed does not depend on their content."""
    generator = np.random.default_rng(0)
    size = (pair.samples, pair.image_size, pair.image_size, 3)
    images = generator.integers(0, 256, size, dtype=np.uint8)
    labels = np.resize(np.arange(pair.classes, dtype=np.int64), pair.samples)
    names = tuple(str(c) for c in range(pair.classes))
    train = Samples(images, labels)
    val = Samples(images[: pair.classes], labels[: pair.classes])
    data = DataSet("random images", names, train, val, pair.image_size, MEAN, STD)
    share = pair.classes // TEACHERS
    torch.manual_seed(0)
    teachers = [
        _settled(create_model(pair.teacher, share), pair.image_size) for _ in range(TEACHERS)
    ]
    slices = [(k * share, (k + 1) * share) for k in range(TEACHERS)]
    student = create_model(pair.student, pair.classes)
    return Setting(data, teachers, slices, student, batch_size, device)


@torch.no_grad()
def _settled(model: nn.Module, image_size: int) -> nn.Module:
    """Set the batch norm statistics from noise: with the initial ones a deep net overflows."""
    model.train()(torch.randn(16, 3, image_size, image_size))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model(torch.randn(32, 3, image_size, image_size))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def fast_precision(device: torch.device) -> Precision:
    """The faster precision: bf16 where the hardware multiplies it."""
    if device.type == "cuda":
        hardware = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if hardware else "fp32"
