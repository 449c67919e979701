"""The interface of a distillation algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.utils.errors import UserError
from edufast.utils.numbers import real_number


@dataclass(frozen=True)
class GradeContext:
    """What an algorithm may know when a grade begins.

    Attributes:
        student_shapes: shapes of the student's features without the batch dimension: maps (C, H, W)
            or tokens (N, C) from shallow to deep, then the embedding (C,).
        teachers: positions in the faculty of the grade's teachers.
        teacher_shapes: the same shapes for each of these teachers; empty if the algorithm does not
            read features.
        labels: (N,) int64, the label of each training sample as in ``logit_loss``; -1 if its class
            is not taught yet.
        owners: (N,) int64, if each sample is routed to the teacher of its class: that teacher's
            position in ``teachers``, -1 if there is none. None: every teacher sees every sample.
        device: the student's.
    """

    student_shapes: list[tuple[int, ...]]
    teachers: tuple[int, ...]
    teacher_shapes: list[list[tuple[int, ...]]]
    labels: Tensor
    owners: Tensor | None
    device: torch.device

    @property
    def num_samples(self) -> int:
        """N, the size of the training split, including classes not taught yet."""
        return len(self.labels)


class Algorithm(nn.Module):
    """Computes the loss of a batch from the outputs of the student and of the teachers.

    The loss is ``logit_loss`` of the student's logits, plus ``curriculum.exit_weight`` times that
    of each exit, plus ``feature_loss`` if ``reads_features``. A grade without teachers uses plain
    cross-entropy instead.

    Subclasses override one or both. Values that change between epochs belong in buffers, not in
    Python numbers, so that a compiled step stays valid; on a GPU, where steps are replayed as CUDA
    graphs, what a loss does in Python happens in an epoch's first steps only. Parameters and
    buffers such as adapters and memory banks are created in ``begin_grade``, from nothing but the
    contexts so far: the School trains the parameters in a group of their own and saves both in its
    checkpoints.

    Teachers are constants: no gradient flows into them. On several ranks each of them computes the
    loss of the whole batch: B is the number of all its samples, and random numbers drawn here are
    the same on all ranks.

    Args:
        temperature: T, above 0, of the softened distributions; also used to merge slice teachers
            into one target.
    """

    reads_features: ClassVar[bool] = False

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = above_zero("temperature", temperature)

    @property
    def takes_soft_labels(self) -> bool:
        """Whether labels may be probabilities (B, C), which ``training.mix`` and
        ``training.label_smoothing`` make of them."""
        return False

    def begin_grade(self, context: GradeContext) -> None:
        """Called at the beginning of each grade that has teachers."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0 over all grades, of ``epochs`` in total."""

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        """The loss of logits (B, C) with labels (B,) in [0, C), cross-entropy included; with
        ``takes_soft_labels`` also of probabilities (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} defines no logit_loss")

    def feature_loss(
        self, features: list[Tensor], outputs: TeacherOutputs, labels: Tensor
    ) -> Tensor:
        """The loss of the student's features, of shapes (B, *GradeContext.student_shapes[i])."""
        return features[-1].new_zeros(())


def above_zero(name: str, value: float) -> float:
    """``value`` as a float.

    Raises:
        UserError: it is not a finite number above 0.
    """
    return _checked(name, value, lambda number: number > 0, "above 0")


def at_least_zero(name: str, value: float) -> float:
    """Like :func:`above_zero`, but 0 is allowed."""
    return _checked(name, value, lambda number: number >= 0, "of at least 0")


def share(name: str, value: float) -> float:
    """Like :func:`above_zero`, for a number in [0, 1]."""
    return _checked(name, value, lambda number: 0 <= number <= 1, "in [0, 1]")


def _checked(name: str, value: float, fits: Callable[[float], bool], expected: str) -> float:
    try:
        number = real_number(name, value, -math.inf)
    except ValueError as error:
        raise UserError(f"{error} {expected}") from None
    if not fits(number):
        raise UserError(f"{name} is {value!r}; expected a finite number {expected}")
    return number
