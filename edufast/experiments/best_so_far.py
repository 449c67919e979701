"""The best model of an unfinished run, exported so that it can be used and nothing is lost."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from torch import nn

from edufast.edge.parity import ExportError
from edufast.experiments.run_setup import Setup
from edufast.experiments.student_training import export_student
from edufast.models.weights import ModelInfo, read_info, save_model
from edufast.training.school import School
from edufast.utils.errors import UserError, one_line

# Between two exports are at least this many seconds, and this many times what the last one took,
# since each is verified on the whole validation split.
EXPORT_EVERY, EXPORT_SHARE = 60.0, 20.0


class BestSoFar:
    """Keeps and exports the most accurate model of all classes while a run goes on: the student, or
    a teacher where the recipe gives minutes. In the end the finished student takes its place.

    Args:
        setup: of the run, whose folder is opened.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        kept = setup.folder.best
        self._accuracy = -math.inf
        if kept.exists():
            try:
                self._accuracy = read_info(kept).accuracy
            except UserError as error:
                setup.console.print(f"{error}; the next model takes its place", highlight=False)
        self._waiting: tuple[nn.Module, ModelInfo] | None = None  # to be exported
        self._next = -math.inf  # when another may be exported

    def offer(self, school: School, model: str) -> str:
        """Keep what ``school`` teaches if it is complete and more accurate than all before, and
        export it unless another was exported a short time ago.

        Args:
            school: after a validation.
            model: name of its network.

        Returns:
            What was exported, in words, or nothing.
        """
        student, at, data = school.evaluated, school.progress, school.data
        complete = student.grown == len(student.fragments) and student.classes == len(data.classes)
        if not complete or at.accuracy <= self._accuracy:
            return ""
        info = ModelInfo.describe(
            model, data, range(len(data.classes)), at.accuracy, at.student_flops, at.seconds
        )
        info = replace(info, image_size=student.image_size or data.image_size)
        graduate = student.graduate()
        save_model(self._setup.folder.best, graduate, info)
        self._accuracy, self._waiting = at.accuracy, (graduate, info)
        return self.export() if time.monotonic() >= self._next else ""

    def export(self) -> str:
        """Export the best so far as student.onnx unless that was done; returns in words what became
        of it. Training goes on where that fails: the finished student may be another matter."""
        if self._waiting is None:
            return ""
        waiting, self._waiting = self._waiting, None
        started = time.monotonic()
        try:
            written = export_student(self._setup, *waiting)
        except (ExportError, UserError) as error:
            return f"not exported: {one_line(error)}"
        finally:
            ended = time.monotonic()
            self._next = ended + max(EXPORT_EVERY, EXPORT_SHARE * (ended - started))
        return f"usable: {written.path} ({written.accuracy:.1%}, {written.bytes / 1e6:.2f} MB)"

    def end(self) -> None:
        """The finished student was exported: what was kept until then is no longer needed."""
        self._waiting = None
        self._setup.folder.best.unlink(missing_ok=True)
