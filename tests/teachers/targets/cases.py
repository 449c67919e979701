"""A batch of slice teachers' answers, and what a soft target should be, row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edufast.teachers.targets import TARGETS, SliceLogits

MERGED = [name for name in TARGETS if callable(TARGETS.find(name))]
CLASSES = 7
COLUMNS = [[0, 1, 2], [5, 3], [6]]  # class 4 is nobody's
LABELS = [1, 5, 6, 4, 3, 0]
OWNERS = [0, 1, 2, -1, 1, 0]


def teachers(count: int = 3, scale: float = 3.0) -> SliceLogits:
    """The first ``count`` of the teachers, in float64."""
    generator = torch.Generator().manual_seed(5)
    logits = [
        scale * torch.randn(len(LABELS), len(columns), generator=generator, dtype=torch.float64)
        for columns in COLUMNS
    ]
    owners = torch.tensor([owner if owner < count else -1 for owner in OWNERS])
    columns = [torch.tensor(columns) for columns in COLUMNS]
    return SliceLogits(
        logits[:count], columns[:count], owners, torch.tensor(LABELS), classes=CLASSES
    )


def mixture(given: SliceLogits, temperature: float, weight: Callable[[int, int], float]) -> Tensor:
    """(B, C) probabilities: teacher k's softened distribution times ``weight(row, k)``."""
    expected = torch.zeros(len(LABELS), CLASSES, dtype=torch.float64)
    for row in range(len(LABELS)):
        for k, logits in enumerate(given.logits):
            p = torch.softmax(logits[row] / temperature, 0)
            for column, share in zip(COLUMNS[k], p, strict=True):
                expected[row, column] = weight(row, k) * share
    return expected


def soft(target: Tensor, temperature: float) -> Tensor:
    """The distribution that a loss distils."""
    return torch.softmax(target / temperature, 1)
