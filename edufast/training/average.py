"""The moving average of a student over its steps, which is validated and graduates in its place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from edufast.ops import MergePlan
from edufast.ops.backends import select_backend
from edufast.student.student import Student
from edufast.utils.registry import call_user


class Average:
    """An exponential moving average of a student, itself a student that grows along.

    ``decay * average + (1 - decay) * student`` after every step, of all that has grown: parameters
    and batch normalisation's running statistics alike (as in timm's and torchvision's averages);
    its counts of batches are copied. Fragments, heads and rows that a grade adds start from their
    own weights. It is kept in float32, and updated in one launch, which may be captured.

    Args:
        student: before it grows.
        decay: in (0, 1).

    Attributes:
        student: the average, in eval mode.

    Raises:
        UserError: the student cannot be copied, as with ``torch.nn.utils.weight_norm``.
    """

    def __init__(self, student: Student, decay: float) -> None:
        copied: Student = call_user("the student cannot be copied", copy.deepcopy, student)
        self.student = copied.float().eval()
        self._decay = decay
        self._step: MergePlan | None = None

    def follow(self, student: Student) -> None:
        """Average ``student`` from now on, which has grown like the average."""
        targets, sources = _grown_tensors(self.student), _grown_tensors(student)
        # A captured call of Triton's merge_ would read a table that is gone by then.
        backend = "reference" if select_backend(None, targets[0]) == "triton" else None
        self._step = MergePlan(targets, sources, backend=backend)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the student as it is now.

        Raises:
            RuntimeError: there is no student to follow yet.
        """
        if self._step is None:
            raise RuntimeError("there is nothing to average yet: call follow() first")
        self._step(keep=self._decay)


def _grown_tensors(student: Student) -> list[Tensor]:
    """Parameters and buffers of what has grown, in one order for all students grown alike."""
    grown, missing = student.fragments[: student.grown], student.fragments[student.grown :]
    idle = set[str]().union(*(piece.modules for piece in missing))
    idle = idle.difference(*(piece.modules for piece in grown))
    settled = {f"model.{name}" for name in idle}
    buffers = (b for name, b in student.named_buffers() if name.rpartition(".")[0] not in settled)
    return [*student.active_parameters(), *buffers]
