"""Batches of logits as a Supervision gives them, and the pieces of formulas in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edufast.distill import TeacherOutputs
from edufast.ops import ClassSlices
from edufast.teachers.targets import TARGETS, SliceLogits

BATCH, CLASSES = 12, 7
SLICES = [(0, 3), [5, 3]]  # classes 4 and 6 are in no slice
MERGED = tuple(name for name in TARGETS if callable(TARGETS.find(name)))


def draw(kind: str) -> tuple[Tensor, TeacherOutputs, Tensor]:
    """Student logits, teacher outputs, labels.

    The kinds are what a Supervision gives: "full" (one teacher), "several" (full), "routed" (rows
    of other owners are NaN), and the targets that merge (columns in no slice are -inf).
    """
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return 3 * torch.randn(*shape, generator=generator)

    logits = normal(BATCH, CLASSES).requires_grad_()
    index = torch.arange(BATCH)
    everyone = slice(0, BATCH)
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0, 5, 3, 3, 5, 3])  # grouped by owner
    if kind in ("full", "several"):
        count = 1 if kind == "full" else 3
        answers = [normal(BATCH, CLASSES) for _ in range(count)]
        return logits, TeacherOutputs(answers, None, "mean", [everyone] * count, [], index), labels
    slices = ClassSlices.of(SLICES, CLASSES)
    answers = [normal(BATCH, size) for size in slices.sizes]
    rows = [slice(0, 7), slice(7, BATCH)]
    if kind in MERGED:
        columns = [torch.tensor([0, 1, 2]), torch.tensor(SLICES[1])]
        owners = torch.tensor([0] * 7 + [1] * 5)
        target = TARGETS.find(kind)(SliceLogits(answers, columns, owners, labels, CLASSES), 4.0)
        return logits, TeacherOutputs([target], None, "mean", [everyone] * 2, [], index), labels
    answers[0][rows[1]] = math.nan
    answers[1][rows[0]] = math.nan
    return logits, TeacherOutputs(answers, slices, "routed", rows, [], index), labels


KINDS = ("full", "several", "routed", *MERGED)


def columns(outputs: TeacherOutputs, k: int) -> list[int]:
    """Classes that teacher ``k`` speaks about."""
    classes = [range(*s) if isinstance(s, tuple) else s for s in SLICES]
    return list(classes[k]) if outputs.slices else list(range(outputs.logits[k].shape[1]))


def read(outputs: TeacherOutputs, k: int, row: int) -> bool:
    """Whether anything is asked of teacher ``k`` about a row."""
    return outputs.weighting != "routed" or row in range(*outputs.rows[k].indices(BATCH))


def weight_of(outputs: TeacherOutputs, k: int, row: int) -> float:
    """By "mean" or, where samples are routed, by ownership."""
    if outputs.weighting == "routed":
        return float(read(outputs, k, row))
    return 1 / len(outputs.logits)


def rows_of(outputs: TeacherOutputs, logits: Tensor, k: int, row: int) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits of a row over the classes that the teacher speaks about."""
    return logits[row].double()[columns(outputs, k)], outputs.logits[k][row].double()


def possible(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the classes that the teacher holds at -inf."""
    return z[t > -math.inf], t[t > -math.inf]


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of distributions."""
    some = p > 0
    return (p[some] * (p[some].log() - q[some].log())).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits.double(), 1)
    return -torch.stack([log_p[row, label] for row, label in enumerate(labels)]).mean()
