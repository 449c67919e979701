"""A small student, grown and trained, for the tests of what it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from edufast.data.class_map import ClassMap
from edufast.models.zoo import create_model
from edufast.student.student import Student

CLASSES = 10
STAGES = [(1, 4), (1, 6), (2, 6), (2, 8), (3, 8), (3, 10)]  # each growth alone


def student(*, ids: Sequence[int] = range(CLASSES), **options: object) -> Student:
    """With nothing grown, and ``ids`` the class ids in the order of the logits."""
    torch.manual_seed(0)
    # Rows can move from these heads to the classifier; from a grid they cannot.
    options = {"head": "pool_first"} | options
    result = Student(create_model("resnet8", CLASSES), 3, input_size=(3, 16, 16), **options)
    result.assign_classes(ClassMap.of(ids))
    return result


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(images())
        nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
        optimizer.step()


def finished(**options: object) -> Student:
    result = student(**options)
    result.grow(fragments=3, classes=CLASSES)
    train(result, SGD(result.active_parameters(), lr=0.1))
    return result.eval()
