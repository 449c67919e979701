"""Growing up: what student, algorithm and optimiser are in each grade."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edufast.distill import Algorithm, GradeContext
from edufast.models.feature_taps import FeatureTaps
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.teachers.supervision import Supervision
from edufast.training.curriculum import Curriculum
from edufast.training.settings import Training


class Growth:
    """Takes student, algorithm and optimiser from grade to grade: ``growth.begin(g)``.

    Args:
        student: with nothing grown yet.
        algorithm: makes what it learns and remembers, grade by grade.
        curriculum: how the student grows.
        supervisions: of each grade; they get taps where the algorithm reads features.
        faculty: the teachers to tap.
        training: makes the optimiser.
        class_ids: (N,) int64 of the training samples, where the student trains.
        labels: (N,) likewise, as positions in curriculum order.

    Attributes:
        begun: number of grades begun, also those that are over.
        optimizer: of what the student has grown, and of the algorithm; None: no grade has begun.

    Raises:
        ValueError: the student does not fit the curriculum.
    """

    def __init__(
        self,
        student: Student,
        algorithm: Algorithm,
        curriculum: Curriculum,
        supervisions: Sequence[Supervision],
        faculty: Faculty,
        training: Training,
        class_ids: Tensor,
        labels: Tensor,
    ) -> None:
        _check(student, curriculum)
        self.begun = 0
        self.optimizer: torch.optim.Optimizer | None = None
        self._student, self._algorithm, self._curriculum = student, algorithm, curriculum
        self._supervisions, self._faculty = supervisions, faculty
        self._training = training
        self._class_ids, self._labels = class_ids, labels

    def begin(self, g: int) -> torch.optim.Optimizer:
        """Let all be what it is in grade ``g``, by way of the grades before."""
        while self.begun <= g:
            self._grow(self.begun)
            self.begun += 1
        assert self.optimizer is not None
        return self.optimizer

    def _grow(self, g: int) -> None:
        curriculum, student, algorithm = self._curriculum, self._student, self._algorithm
        fragments, classes = curriculum.fragments[g], len(curriculum.classes_taught(g))
        own = set(algorithm.parameters())
        if self.optimizer is not None and own:
            self.optimizer.param_groups.pop()  # the student's are the others
        if (student.grown, student.classes) < (fragments, classes):
            student.grow(
                fragments=fragments,
                classes=classes,
                optimizer=self.optimizer,
                keep_rows=curriculum.keep_rows,
                keep_state=curriculum.keep_state,
                keep_exits=curriculum.exit_weight > 0,
            )
        if self.optimizer is None:
            self.optimizer = self._training.create_optimizer(student.active_parameters())
        if curriculum.grades[g].teachers:
            if algorithm.reads_features:
                self._supervisions[g].taps = self._taps(g)
            algorithm.begin_grade(self._context(g))
        kept = list(algorithm.parameters())
        for parameter in own.difference(kept):
            self.optimizer.state.pop(parameter, None)
        if kept:
            self.optimizer.add_param_group({"params": kept})
        _complete_momentum(self.optimizer)

    def _taps(self, g: int) -> list[FeatureTaps]:
        teachers = self._curriculum.grades[g].teachers
        return [FeatureTaps(self._faculty.model(k), self._student.input_size) for k in teachers]

    def _context(self, g: int) -> GradeContext:
        grade, labels = self._curriculum.grades[g], self._labels
        owners = None
        if grade.target == "routed":
            owners = torch.full_like(labels, -1)
            for position, k in enumerate(grade.teachers):
                classes = torch.tensor(self._faculty[k].classes, device=labels.device)
                owners[torch.isin(self._class_ids, classes)] = position
        return GradeContext(
            student_shapes=self._student.feature_shapes,
            teachers=tuple(grade.teachers),
            teacher_shapes=[taps.shapes for taps in self._supervisions[g].taps],
            labels=labels.masked_fill(labels >= self._student.classes, -1),
            owners=owners,
            device=labels.device,
        )


def _check(student: Student, curriculum: Curriculum) -> None:
    order = curriculum.class_order
    if student.num_classes != len(order):
        raise ValueError(
            f"the student has {student.num_classes} classes, the curriculum teaches {len(order)}"
        )
    if len(student.fragments) != curriculum.fragments[-1]:
        raise ValueError(
            f"the student is cut into {len(student.fragments)} fragments, the curriculum ends "
            f"with {curriculum.fragments[-1]}"
        )
    identity = tuple(range(len(order)))
    expected = order if sorted(order) == list(identity) else identity
    if student.class_order != expected:
        raise ValueError(
            "student.class_order differs from the order in which the curriculum teaches; "
            "expected Student(..., class_order=curriculum.class_order)"
        )


def _complete_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters that are new the momentum they would start with: zero.

    PyTorch's fused SGD takes momentum buffers of all parameters or of none.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if group["momentum"] and parameter not in optimizer.state:
                    buffer = torch.zeros_like(parameter, requires_grad=False)
                    optimizer.state[parameter]["momentum_buffer"] = buffer
