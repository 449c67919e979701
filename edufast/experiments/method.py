"""The methods of a comparison: what each trains, by which curriculum and algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from edufast.data import DataSet
from edufast.experiments.baselines import (
    growing_sizes,
    plain_distillation,
    samples_of_grades,
    single_grade,
    without_teachers,
)
from edufast.experiments.recipe import MethodName, Recipe, TargetName
from edufast.experiments.teacher_training import absent_teacher
from edufast.models.pretrained import Start
from edufast.ops import kd_loss
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum
from edufast.training.growth import flops_per_image, grow_student
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.devices import check_device
from edufast.utils.errors import UserError, one_line
from edufast.utils.event_log import EventLog

METHODS: dict[MethodName, str] = {
    "scratch": "cross-entropy only, one grade",
    "kd": "plain KD from one teacher of all classes, one grade",
    "sizes": "kd, with the image sizes of the recipe's grades",
    **{
        target: f"the recipe's algorithm on the {target} target of the slice teachers, one grade"
        for target in get_args(TargetName)
    },
    "alone": "the recipe's algorithm from the teachers of all classes, one grade",
    "grades": "the recipe's curriculum with cross-entropy only",
    "education": "the recipe: its algorithm under its curriculum",
}
# What a sweep compares by default.
USUAL: tuple[MethodName, ...] = ("scratch", "kd", "routed", "alone", "grades", "education")
GRADED: tuple[MethodName, ...] = ("sizes", "grades", "education")  # the others have one grade
_NEED_FULL_TEACHER = {"kd", "sizes", "alone"}

Planner = Callable[[int], Curriculum]


@dataclass(frozen=True)
class Method:
    """One way to train the student of a recipe.

    Attributes:
        name: one of :data:`METHODS`.
        recipe: as this method carries it out, with its own algorithm; a student that is taught in
            a single grade is not cut, and has no exits.
        data: what is learned.
        curriculum: the grades.
        plan: gives the grades for another number of training samples, rounded to whole batches.
    """

    name: MethodName
    recipe: Recipe
    data: DataSet
    curriculum: Curriculum
    plan: Planner

    @property
    def teachers(self) -> list[int]:
        """Positions of the teachers that it learns from."""
        return sorted({k for grade in self.curriculum.grades for k in grade.teachers})

    @property
    def samples(self) -> list[int]:
        """Samples that each grade trains on in all its epochs."""
        return samples_of_grades(self.curriculum, self.data, self.recipe.training.batch_size)

    def with_samples(self, samples: int) -> Method:
        """The same with about as many training samples in all; education stays as it is."""
        return replace(self, curriculum=self.plan(samples))

    def create_student(self, seed: int) -> Student:
        """A new student with random weights and nothing grown, to see what it takes."""
        torch.manual_seed(seed)
        return self._student(Start(self.recipe.create_student_model(len(self.data.classes))), seed)

    def _student(self, start: Start, seed: int) -> Student:
        section, size = self.recipe.student, self.data.image_size
        return Student(
            start.model,
            self.curriculum.fragments[-1],
            input_size=(3, size, size),
            cuts=section.cuts,
            head=section.head,
            head_width=section.head_width,
            seed=seed,
            learned=start.learned,
        )

    def create_school(
        self,
        seed: int,
        faculty: Faculty,
        *,
        device: str,
        event_log: EventLog | None = None,
        checkpoint: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> School:
        """A school that teaches a new student, with nothing taught yet.

        Its data are normalised as the weights expect that the student starts from; ``say`` gets a
        line about these.
        """
        torch.manual_seed(seed)
        start = self.recipe.start_student(len(self.data.classes))
        if start.summary:
            say(start.summary)
        return School(
            self._student(start, seed),
            faculty,
            self.curriculum,
            start.shown(self.data),
            algorithm=self.recipe.create_algorithm(),
            training=self.recipe.create_training(),
            options=SchoolOptions(device, seed, event_log, checkpoint, name=self.name),
        )

    def training_flops(self) -> int:
        """FLOPs of training the student; those of its teachers come on top."""
        flops = flops_per_image(self.create_student(seed=0), self.curriculum)
        grades = zip(flops, self.curriculum.grades, self.samples, strict=True)
        return sum(flops * (samples // grade.epochs) for flops, grade, samples in grades)


def plan_methods(
    recipe: Recipe, data: DataSet, names: Sequence[MethodName]
) -> dict[MethodName, Method]:
    """The methods ``names`` of a recipe, and education, which the others are compared with.

    All train on as many samples, to within a batch an epoch, in as many epochs as education has or
    a few more. Where one needs a teacher of all classes and the recipe has none, the methods'
    recipes have one more teacher, of the same model as the last.

    Raises:
        UserError: the recipe does not fit the data.
    """
    education = recipe.create_curriculum(data)
    if _NEED_FULL_TEACHER & set(names):
        recipe = recipe.with_full_teacher(data)
    slices = recipe.teacher_classes(data)
    full = [k for k, classes in enumerate(slices) if len(classes) == len(data.classes)]
    owners = [k for k in range(len(slices)) if k not in full]
    batch_size = recipe.training.batch_size
    samples = sum(samples_of_grades(education, data, batch_size))

    def single(teachers: Sequence[int], target: str) -> Planner:
        return lambda total: single_grade(education, total, batch_size, teachers, target)

    uncut = recipe.model_copy(update={"student": recipe.student.model_copy(update={"cuts": None})})
    plain = uncut.model_copy(update={"algorithm": plain_distillation(recipe.algorithm)})
    planned: dict[MethodName, tuple[Recipe, Planner]] = {
        "scratch": (uncut, single([], "none")),
        "kd": (plain, single(full[-1:], "full")),
        "sizes": (
            plain,
            lambda total: growing_sizes(education, total, batch_size, data, full[-1:], "full"),
        ),
        **{target: (uncut, single(owners, target)) for target in get_args(TargetName)},
        "alone": (uncut, single(full, "full")),
        "grades": (recipe, lambda total: without_teachers(education, total, batch_size, data)),
        "education": (recipe, lambda total: education),
    }
    methods = {}
    for name in dict.fromkeys([*names, "education"]):
        own, plan = planned[name]
        try:
            methods[name] = Method(name, own, data, plan(samples), plan)
        except ValueError as error:
            raise UserError(f"{recipe.name}: {error}") from error
    return methods


def dry_run(
    methods: Mapping[MethodName, Method],
    names: Sequence[MethodName],
    device: str,
    *,
    cached: bool = False,
) -> None:
    """Put together all models of a recipe, and of the methods ``names`` all that trains them: what
    does not fit shows here, not after hours of training the teachers.

    Args:
        methods: of the recipe.
        names: those that will be trained.
        device: where.
        cached: whether the teachers' logits will be stored.

    Raises:
        UserError: the first thing that does not fit.
    """
    recipe, data = methods["education"].recipe, methods["education"].data
    slices = recipe.teacher_classes(data)
    try:
        check_device(device)
        _try_loss(device)
        for k, classes in enumerate(slices):
            if recipe.teachers[k].finished is None:
                model = recipe.start_teacher(k, len(classes)).model
            else:
                model = recipe.create_teacher_model(k, len(classes))
            if recipe.create_teaching().batch_size == 1:
                _try_batch_of_one(model, data, f"{recipe.teachers[k].model} of teachers.{k}")
        faculty = Faculty([absent_teacher(classes) for classes in slices])
        for name in names:
            method = methods[name]
            school = _try_school(name, method, faculty, device)
            _try_batches_of_one(method, [plan.steps for plan in school.plans])
            if cached and school.training.unstored:
                raise UserError(
                    f"--cache: training.{school.training.unstored}; stored logits are of images "
                    "that are not altered"
                )
            if cached and school.algorithm.reads_features:
                raise UserError(
                    f"--cache: {method.recipe.algorithm.name} reads the teachers' features, a "
                    "cache holds their logits only"
                )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{recipe.name}: {error}") from error


def _try_school(name: MethodName, method: Method, faculty: Faculty, device: str) -> School:
    """Errors name the method: a baseline has another curriculum than the recipe."""
    try:
        return method.create_school(0, faculty, device=device)
    except UserError:
        raise
    except ValueError as error:
        if name == "education":
            raise
        raise ValueError(f"method {name}: {error}") from error


def _try_loss(device: str) -> None:
    """A loss on ``device``, by the backend that EDUFAST_BACKEND names."""
    logits = torch.zeros(1, 2, device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)
    try:
        kd_loss(logits, [logits], labels)
    except RuntimeError as error:
        raise UserError(f"kd_loss does not run on {device}: {one_line(error)}") from error


def _try_batches_of_one(method: Method, steps: Sequence[int]) -> None:
    """Those grades of ``method`` that have as many steps as samples."""
    alone = [g for g, samples in enumerate(method.samples) if samples == steps[g]]
    if not alone:  # else a student need not be cut here
        return
    student = method.create_student(seed=0)
    for g in range(len(steps)):
        grow_student(student, method.curriculum, g)
        if g in alone:
            what = f"{method.recipe.student.model} in grade {g + 1}"
            _try_batch_of_one(student, method.data, what)


def _try_batch_of_one(model: nn.Module, data: DataSet, what: str) -> None:
    """A single image of zeros, as in training: batch normalisation needs more values a channel."""
    model.train()
    images = torch.zeros(1, 3, data.image_size, data.image_size)
    try:
        model.forward_exits(images) if isinstance(model, Student) else model(images)
    except ValueError as error:
        raise UserError(
            f"a batch has 1 image, from which {what} cannot learn: {one_line(error)}; expected "
            "batch_size and the samples of each grade to be at least 2"
        ) from error
