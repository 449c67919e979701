"""Growth of student, algorithm and optimiser from grade to grade."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edufast.data.class_map import ClassMap
from edufast.distill import Algorithm, GradeContext
from edufast.student.student import Student
from edufast.teachers.supervision import Supervision
from edufast.training.average import Average
from edufast.training.curriculum import Curriculum
from edufast.training.settings import Training
from edufast.utils import cuda_graph
from edufast.utils.errors import UserError
from edufast.utils.registry import call_user


def grow_student(
    student: Student,
    curriculum: Curriculum,
    g: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Grow ``student`` from grade ``g - 1`` to grade ``g`` (from 0), and ``optimizer`` with it."""
    fragments, classes = curriculum.fragments[g], len(curriculum.taught(g))
    student.image_size = curriculum.grades[g].image_size
    if (student.grown, student.classes) < (fragments, classes):
        student.grow(
            fragments=fragments,
            classes=classes,
            optimizer=optimizer,
            keep_rows=curriculum.keep_rows,
            keep_state=curriculum.keep_state,
            keep_exits=curriculum.exit_weight > 0,
        )


def flops_per_image(student: Student, curriculum: Curriculum) -> Iterator[int]:
    """FLOPs of training ``student``, which has not grown yet, on one image in every epoch of a
    grade: grade after grade, into each of which it grows."""
    for g, grade in enumerate(curriculum.grades):
        grow_student(student, curriculum, g)
        flops = 0
        for epoch in range(grade.epochs):
            student.frozen = grade.frozen(epoch)
            flops += student.training_flops()
        yield flops


class Growth:
    """Brings student, algorithm and optimiser from grade to grade: ``growth.begin(g)``.

    Args:
        student: must not have grown yet. Its classes become those of the curriculum.
        algorithm: may add parameters and buffers in each grade.
        curriculum: determines how the student grows.
        supervisions: of each grade; their teachers are tapped if the algorithm reads features.
        training: settings of the optimiser.
        class_ids: (N,) int64 of the training samples, on the student's device.

    Attributes:
        begun: number of grades that have begun, including those that have ended.
        average: of the student, which grows along; None: ``training`` asks for none, or no grade
            has begun.

    Raises:
        ValueError: the student does not fit the curriculum.
    """

    def __init__(
        self,
        student: Student,
        algorithm: Algorithm,
        curriculum: Curriculum,
        supervisions: Sequence[Supervision],
        training: Training,
        class_ids: Tensor,
    ) -> None:
        _check(student, curriculum)
        student.assign_classes(curriculum.class_map)
        self.begun = 0
        self.average: Average | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._student, self._algorithm, self._curriculum = student, algorithm, curriculum
        self._supervisions, self._training = supervisions, training
        self._class_ids = class_ids
        self._targets = _targets(curriculum.class_map, class_ids)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the student's active parameters and of the algorithm's.

        Raises:
            RuntimeError: no grade has begun.
        """
        if self._optimizer is None:
            raise RuntimeError("no grade has begun yet")
        return self._optimizer

    def begin(self, g: int) -> None:
        """Bring student, algorithm and optimiser into grade ``g``, through all grades before it."""
        while self.begun <= g:
            self._grow(self.begun)
            self.begun += 1

    def _grow(self, g: int) -> None:
        curriculum, student, algorithm = self._curriculum, self._student, self._algorithm
        own = set(algorithm.parameters())
        if self._optimizer is not None and own:
            self._optimizer.param_groups.pop()  # the last group is the algorithm's
        if g == 0 and self._training.ema:
            self.average = Average(student, self._training.ema)
        grow_student(student, self._curriculum, g, self._optimizer)
        if self.average is not None:
            grow_student(self.average.student, self._curriculum, g)
            self.average.follow(student)
        if self._optimizer is None:
            self._optimizer = self._training.create_optimizer(
                student.active_parameters(), student.learned
            )
        if curriculum.grades[g].teachers:
            what = f"{type(algorithm).__name__}.begin_grade"
            call_user(what, algorithm.begin_grade, self._context(g))
        kept = list(algorithm.parameters())
        for parameter in own.difference(kept):
            self._optimizer.state.pop(parameter, None)
        if kept:
            self._optimizer.add_param_group({"params": kept})
        _complete_momentum(self._optimizer)
        if self._class_ids.device.type in cuda_graph.DEVICES:
            _rates_as_tensors(self._optimizer, self._class_ids.device)

    def _context(self, g: int) -> GradeContext:
        student, supervision = self._student, self._supervisions[g]
        shapes = supervision.tap(student.input_size) if self._algorithm.reads_features else []
        return GradeContext(
            student_shapes=student.feature_shapes,
            teachers=tuple(self._curriculum.grades[g].teachers),
            teacher_shapes=shapes,
            labels=self._targets.masked_fill(self._targets >= student.classes, -1),
            owners=supervision.owners(self._class_ids),
            device=self._class_ids.device,
        )


def _targets(class_map: ClassMap, class_ids: Tensor) -> Tensor:
    """Positions (N,) of class ids (N,); -1 for those that are not in the map."""
    positions = class_map.positions(class_ids.device)
    known = class_ids < len(positions)
    return positions[class_ids.where(known, 0)].where(known, -1)


def _check(student: Student, curriculum: Curriculum) -> None:
    if student.num_classes != len(curriculum.class_map):
        raise ValueError(
            f"the student has {student.num_classes} classes, the curriculum teaches "
            f"{len(curriculum.class_map)}"
        )
    if len(student.fragments) != curriculum.fragments[-1]:
        raise ValueError(
            f"the student is cut into {len(student.fragments)} fragments, the curriculum ends "
            f"with {curriculum.fragments[-1]}"
        )
    if curriculum.keep_rows:
        widths = [student.row_width(fragments) for fragments in curriculum.fragments]
        for number, (before, after) in enumerate(itertools.pairwise(widths), 2):
            if before != after:
                raise ValueError(
                    f"keep_rows is True, but rows of {before} features cannot become rows of "
                    f"{after} in grade {number}; expected keep_rows False, or a head and "
                    "head_width that leave the number as it is"
                )
    for number, grade in enumerate(curriculum.grades, 1):
        try:
            student.image_size = grade.image_size
        except (UserError, ValueError) as error:
            raise ValueError(f"grade {number}: {error}") from error


def _complete_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give new parameters the momentum that they would start with: zero.

    PyTorch's fused SGD needs momentum buffers for either all parameters or none.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if group["momentum"] and parameter not in optimizer.state:
                    buffer = torch.zeros_like(parameter, requires_grad=False)
                    optimizer.state[parameter]["momentum_buffer"] = buffer


def _rates_as_tensors(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Learning rates as tensors on the device: a captured step would repeat a float."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), float(group["lr"]), device=device)
