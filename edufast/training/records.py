"""What a training writes to its event log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edufast.student.student import Student
from edufast.training.evaluation import Accuracy
from edufast.training.events import CompileEvent, GradeEvent, TrainingEvent
from edufast.training.progress import Progress
from edufast.training.settings import SchoolOptions, Training
from edufast.training.step import TrainStep
from edufast.utils import ranks
from edufast.utils.event_log import EventLog


class Records:
    """Writes the events of a training, on the first of several ranks.

    Args:
        options: name, seed and event log of the training.
        slices: number of class slices that it teaches.
        say: prints a line for people.
    """

    def __init__(self, options: SchoolOptions, slices: int, say: Callable[[str], None]) -> None:
        self._options, self._slices, self._say = options, slices, say
        self._compiled: bool | None = None
        self._log = (options.event_log if ranks.is_first() else None) or EventLog()

    def write(self, at: Progress, event: type[TrainingEvent], **fields: Any) -> None:
        """Write an event that happened at the point ``at`` of the training."""
        where: dict[str, Any] = {"method": self._options.name, "seed": self._options.seed}
        self._log.write(event(**where, grade=at.grade + 1, epoch=at.epoch, **fields))

    def compiled(self, at: Progress, step: TrainStep, training: Training) -> None:
        """Log whether the step is compiled, and why; also print it if it was decided automatically
        and differs from the grade before."""
        self.write(at, CompileEvent, compiled=step.compiled, reason=step.reason)
        if training.compile == "auto" and step.compiled != self._compiled:
            self._say(f"{'compiled' if step.compiled else 'not compiled'}: {step.reason}")
        self._compiled = step.compiled

    def grade(self, at: Progress, student: Student, accuracy: Accuracy) -> None:
        """The end of a grade."""
        untaught = [None] * (self._slices - len(accuracy.slices))
        self.write(
            at,
            GradeEvent,
            classes=student.classes,
            fragments=student.grown,
            accuracy=accuracy.overall,
            slice_accuracy=[*accuracy.slices, *untaught],
            slice_accuracy_masked=[*accuracy.masked, *untaught],
        )
