"""A data set, models and a recipe small enough to train in a test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from edufast.data import Augment, DataSet, Samples
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.settings import Training

TRAINING = Training(batch_size=16, lr=0.05, augment=Augment(pad=1, flip=False))


def tiny_data(classes: int = 6, per_class: int = 24) -> DataSet:
    """Bright squares at places that depend on the class, in noise."""
    generator = np.random.default_rng(0)

    def split(count: int) -> Samples:
        labels = np.repeat(np.arange(classes), count).astype(np.int64)
        images = generator.integers(0, 120, (len(labels), 16, 16, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            y, x = 4 * (label // 3) + 2, 4 * (label % 3) + 2
            image[y : y + 4, x : x + 4] += 130
        return Samples(images, labels)

    names = tuple(f"c{c}" for c in range(classes))
    return DataSet("tiny", names, split(per_class), split(8), 16, (0.3,) * 3, (0.2,) * 3)


def tiny_model(classes: int = 6) -> nn.Module:
    """Three blocks with norm and dropout, so that modes and random state matter."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Dropout(0.1)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


class Viewing(nn.Module):
    """As in many a tutorial: a feature map is flattened by a view, which needs it contiguous."""

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 4, 3, 2, 1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.fc(x.view(x.size(0), -1))


def tiny_faculty(*slices: range) -> Faculty:
    """Untrained teachers."""
    torch.manual_seed(7)
    return Faculty([Teacher(tiny_model(len(s)), s) for s in slices])


class Constant(nn.Module):
    """Answers every image with logits that depend on its mean, and counts the images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, classes)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.drop(self.linear(images.mean((1, 2, 3))[:, None]))


def constant_faculty(*slices: Sequence[int]) -> Faculty:
    """Teachers that count the images they see."""
    torch.manual_seed(0)
    return Faculty([Teacher(Constant(len(s)), s, f"t{k}") for k, s in enumerate(slices)])
