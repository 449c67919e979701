"""What the methods of a comparison train: curriculum, student, algorithm, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from edufast.data import DataSet
from edufast.distill import Algorithm, create_algorithm
from edufast.experiments.recipe import Method, Recipe, TeacherSection
from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.teachers.cached_faculty import LogitCache
from edufast.teachers.faculty import Faculty, Teacher
from edufast.training.curriculum import Curriculum, Grade, Target
from edufast.training.school import School
from edufast.training.settings import Training
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog

METHODS: dict[Method, str] = {
    "scratch": "cross-entropy only, one grade",
    "kd": "plain KD from one teacher of all classes, one grade",
    "routed": "the recipe's algorithm, each sample taught by the slice teacher that owns it, one "
    "grade",
    "alone": "the recipe's algorithm from the teachers of all classes, one grade",
    "grades": "the recipe's curriculum with cross-entropy only",
    "education": "the recipe: its algorithm under its curriculum",
}
GRADED = ("grades", "education")


class Methods:
    """The methods of one recipe on one data set.

    Args:
        recipe: what education distillation does.
        data: what to learn.
        names: the methods wanted. Where one needs a teacher of all classes and the recipe has
            none, :attr:`recipe` has one more, like its last teacher.

    Raises:
        UserError: the recipe does not fit the data.
    """

    def __init__(self, recipe: Recipe, data: DataSet, names: Sequence[str]) -> None:
        self.data = data
        self.education = recipe.create_curriculum(data)
        self.recipe = _with_full_teacher(recipe, data) if {"kd", "alone"} & set(names) else recipe
        self.slices = self.recipe.teacher_classes(data)

    def curriculum(self, method: str, samples: int | None = None) -> Curriculum:
        """What ``method`` teaches, in as many epochs as education has or a few more.

        Args:
            samples: of training, rounded to whole batches; None: as many as education sees. Not
                used for education itself.
        """
        education = self.education
        if method == "education":
            return education
        seen = samples_of_grades(education, self.data, self._batch_size)
        total = sum(seen) if samples is None else samples
        if method == "grades":
            factor = total / sum(seen)
            grades = [
                replace(grade, teachers=(), target="none", samples=self._scaled(grade, n, factor))
                for grade, n in zip(education.grades, seen, strict=True)
            ]
            return replace(education, grades=grades)
        steps = max(1, round(total / self._batch_size))
        epochs = _even_epochs(steps, sum(grade.epochs for grade in education.grades))
        full = [k for k, known in enumerate(self.slices) if len(known) == len(self.data.classes)]
        owners = [k for k in range(len(self.slices)) if k not in full]
        taught_by: dict[str, tuple[list[int], Target]] = {
            "scratch": ([], "none"),
            "kd": (full[-1:], "full"),
            "alone": (full, "full"),
            "routed": (owners, "routed"),
        }
        teachers, target = taught_by[method]
        return Curriculum.single(
            education.class_order,
            epochs,
            teachers=teachers,
            target=target,
            samples=round(steps / epochs) * self._batch_size,
        )

    def student(self, method: str, seed: int) -> Student:
        """A new student for ``method``. One that is taught in a single grade has no exits."""
        section, curriculum = self.recipe.student, self.curriculum(method)
        torch.manual_seed(seed)
        return Student(
            create_model(section.model, len(self.data.classes)),
            curriculum.fragments[-1],
            input_size=(3, self.data.image_size, self.data.image_size),
            cuts=section.cuts if method in GRADED else None,
            head=section.head,
            head_width=section.head_width,
            class_order=curriculum.class_order,
            seed=seed,
        )

    def algorithm(self, method: str) -> Algorithm:
        """How ``method`` distils."""
        section = self.recipe.algorithm
        if method != "kd":
            return self.recipe.create_algorithm()
        if section.name not in ("kd", "reverse_kl", "js"):
            return create_algorithm("kd")  # temperature and alpha mean something else there
        given = (section.model_extra or {}).items()
        return create_algorithm("kd", **{k: v for k, v in given if k in ("temperature", "alpha")})

    def teachers(self, names: Sequence[str]) -> set[int]:
        """Positions of the teachers that these methods learn from."""
        grades = (grade for name in names for grade in self.curriculum(name).grades)
        return {k for grade in grades for k in grade.teachers}

    def school(
        self,
        method: str,
        seed: int,
        faculty: Faculty,
        curriculum: Curriculum,
        *,
        device: str,
        training: Training | None = None,
        event_log: EventLog | None = None,
        checkpoint: Path | None = None,
        cache: LogitCache | None = None,
    ) -> School:
        """A school that trains ``method`` by ``curriculum``, with nothing taught yet.

        ``training`` None: as the recipe says.
        """
        return School(
            self.student(method, seed),
            faculty,
            curriculum,
            self.data,
            algorithm=self.algorithm(method),
            training=training or self.recipe.create_training(),
            device=device,
            seed=seed,
            event_log=event_log,
            checkpoint=checkpoint,
            method=method,
            cache=cache,
        )

    def rehearse(self, names: Sequence[str], device: str) -> None:
        """Put everything together once with stand-ins for the teachers: what does not fit shows
        here, not after they have been trained.

        Raises:
            UserError: the first thing that does not fit.
        """
        try:
            for section, classes in zip(self.recipe.teachers, self.slices, strict=True):
                create_model(section.model, len(classes))
            faculty = Faculty([absent_teacher(classes) for classes in self.slices])
            for name in names:
                self.school(name, 0, faculty, self.curriculum(name), device=device)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.recipe.name}: {error}") from error

    def samples(self, method: str, equal: Literal["samples", "flops"]) -> int:
        """Training samples that take ``method`` as many samples or student FLOPs as education."""
        education = sum(samples_of_grades(self.education, self.data, self._batch_size))
        if equal == "samples":
            return education
        return round(education * self._flops("education") / self._flops(method))

    def _flops(self, method: str) -> int:
        """Student FLOPs of ``method`` where it sees as many samples as education."""
        curriculum = self.curriculum(method)
        seen = samples_of_grades(curriculum, self.data, self._batch_size)
        # As many per sample, whatever whole batches make of the number of samples.
        education = sum(samples_of_grades(self.education, self.data, self._batch_size))
        return training_flops(self.student(method, 0), curriculum, seen) * education // sum(seen)

    def _scaled(self, grade: Grade, seen: int, factor: float) -> int | None:
        if factor == 1:
            return grade.samples
        steps = max(1, round(factor * seen / grade.epochs / self._batch_size))
        return steps * self._batch_size

    @property
    def _batch_size(self) -> int:
        return self.recipe.training.batch_size


def absent_teacher(classes: Sequence[int]) -> Teacher:
    """Takes the place of a teacher in the faculty that is never asked."""
    return Teacher(nn.Identity(), classes)


def samples_of_grades(curriculum: Curriculum, data: DataSet, batch_size: int) -> list[int]:
    """Samples each grade trains on in all its epochs, of whole batches each."""
    totals = []
    for g, grade in enumerate(curriculum.grades):
        available = int(np.isin(data.train.labels, curriculum.classes_taught(g)).sum())
        samples = grade.samples or available
        # A set smaller than a batch still makes one.
        totals.append(grade.epochs * (samples // batch_size * batch_size or samples))
    return totals


def training_flops(student: Student, curriculum: Curriculum, samples: Sequence[int]) -> int:
    """FLOPs of training ``student`` on so many samples in each grade; it grows meanwhile."""
    total = 0
    for g, count in enumerate(samples):
        student.grow(
            fragments=curriculum.fragments[g],
            classes=len(curriculum.classes_taught(g)),
            keep_exits=curriculum.exit_weight > 0,
        )
        grade = curriculum.grades[g]
        for epoch in range(grade.epochs):
            student.frozen = grade.frozen(epoch)
            total += student.training_flops() * (count // grade.epochs)
    return total


def _even_epochs(steps: int, epochs: int) -> int:
    """``epochs`` or up to half as many more: where equal epochs best add up to ``steps``."""
    if steps <= epochs:
        return steps
    candidates = range(epochs, epochs + epochs // 2 + 1)
    return min(candidates, key=lambda count: abs(steps - count * round(steps / count)))


def _with_full_teacher(recipe: Recipe, data: DataSet) -> Recipe:
    """The recipe with a teacher of all classes, added last where there is none."""
    if any(len(classes) == len(data.classes) for classes in recipe.teacher_classes(data)):
        return recipe
    extra = TeacherSection(model=recipe.teachers[-1].model)
    return recipe.model_copy(update={"teachers": [*recipe.teachers, extra]})
