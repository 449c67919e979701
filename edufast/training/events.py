"""The events that a School writes to its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edufast.utils.event_log import Event


@dataclass(frozen=True, kw_only=True)
class TrainingEvent(Event):
    """Something that happened while a student trained.

    Attributes:
        method: name of the training.
        seed: of the training.
        grade: counted from 1.
        epoch: within the grade, counted from 0.
    """

    method: str
    seed: int
    grade: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class StepEvent(TrainingEvent):
    """Every few steps: mean loss of the epoch so far, learning rate, images per second, and the
    samples of the whole training so far."""

    kind: ClassVar[str] = "step"
    step: int
    samples: int
    loss: float
    lr: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class EpochEvent(TrainingEvent):
    """After every epoch: accuracy on the validation split, and the cost so far."""

    kind: ClassVar[str] = "epoch"
    samples: int
    accuracy: float
    loss: float
    images_per_second: float
    student_flops: int
    teacher_flops: int


@dataclass(frozen=True, kw_only=True)
class GradeEvent(TrainingEvent):
    """After every grade: accuracy by slice, None for slices not taught yet."""

    kind: ClassVar[str] = "grade"
    classes: int
    fragments: int
    accuracy: float
    slice_accuracy: list[float | None]
    slice_accuracy_masked: list[float | None]


@dataclass(frozen=True, kw_only=True)
class CompileEvent(TrainingEvent):
    """When a grade begins or its step cannot be compiled: whether it is compiled, and why."""

    kind: ClassVar[str] = "compile"
    compiled: bool
    reason: str
