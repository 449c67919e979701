"""What a distillation algorithm is, and what it may rely on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.utils.errors import UserError


@dataclass(frozen=True)
class GradeContext:
    """What is known when a grade begins.

    Attributes:
        student_shapes: of the student's features, without the batch: maps (C, H, W) or tokens
            (N, C), shallow to deep; last the embedding (C,).
        teachers: positions in the faculty of those who teach.
        teacher_shapes: likewise of the features of each teacher; empty where the algorithm does
            not read features.
        labels: (N,) int64 of the training samples, as in ``logit_loss``; -1: class not taught yet.
        owners: (N,) int64, where samples are routed to the teacher of their class: position among
            ``teachers``, -1: nobody's. None: every teacher looks at every sample.
        device: where the student trains.
    """

    student_shapes: list[tuple[int, ...]]
    teachers: tuple[int, ...]
    teacher_shapes: list[list[tuple[int, ...]]]
    labels: Tensor
    owners: Tensor | None
    device: torch.device

    @property
    def num_samples(self) -> int:
        """N, of the training split, taught or not."""
        return len(self.labels)


class Algorithm(nn.Module):
    """Turns what student and teachers say about a batch into a loss.

    The loss of a batch is ``logit_loss`` of the student's logits, plus that of each exit times
    ``curriculum.exit_weight``, plus ``feature_loss`` where ``reads_features``. A grade without
    teachers has plain cross-entropy and does not ask.

    Subclasses override one or both. What changes between epochs is a buffer, not a Python number,
    so that nothing is compiled anew; what is learned or remembered (adapters, memories) is made in
    ``begin_grade``: the school trains the parameters in a group of their own and keeps parameters
    and buffers in its checkpoints. What ``begin_grade`` makes must follow from the contexts so far.

    Teachers are constants: no gradient flows into them.

    Args:
        temperature: T, above 0; of the softened distributions, also where slice teachers are
            assembled into a gated target.
    """

    reads_features: ClassVar[bool] = False

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = above_zero("temperature", temperature)

    def begin_grade(self, context: GradeContext) -> None:
        """Called when a grade that has teachers begins, in the order of the grades."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch; counted from 0 over the whole training of ``epochs``."""

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        """The loss, cross-entropy included, of logits (B, C) with labels (B,) in [0, C)."""
        raise NotImplementedError(f"{type(self).__name__} defines no logit_loss")

    def feature_loss(
        self, features: list[Tensor], outputs: TeacherOutputs, labels: Tensor
    ) -> Tensor:
        """The loss of the student's features, shaped like ``GradeContext.student_shapes``."""
        return features[-1].new_zeros(())


def above_zero(name: str, value: float) -> float:
    """``value`` as a float.

    Raises:
        UserError: it is not a finite number above 0; the message names it.
    """
    return _checked(name, value, isinstance(value, (int, float)) and value > 0, "above 0")


def at_least_zero(name: str, value: float) -> float:
    """Like :func:`above_zero`, but 0 will do."""
    return _checked(name, value, isinstance(value, (int, float)) and value >= 0, "of at least 0")


def share(name: str, value: float) -> float:
    """Like :func:`above_zero`, for numbers in [0, 1]."""
    return _checked(name, value, isinstance(value, (int, float)) and 0 <= value <= 1, "in [0, 1]")


def _checked(name: str, value: float, fits: bool, expected: str) -> float:
    if not fits or value == float("inf"):
        raise UserError(f"{name} is {value!r}; expected a finite number {expected}")
    return float(value)
