"""What a recipe will take, before any image is read and anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edufast.data import DataSet, MixedSampler, Sampler, Samples, SliceSampler
from edufast.data.outline import held_out, outline
from edufast.experiments.method import Methods, samples_of_grades, training_flops
from edufast.experiments.recipe import DataSection, Recipe
from edufast.teachers.faculty import Faculty, Teacher
from edufast.teachers.supervision import Supervision
from edufast.training.curriculum import Curriculum
from edufast.utils.flops import TRAINING_FACTOR, forward_flops


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (2 x multiply-adds) as :class:`edufast.School` counts them.

    Attributes:
        samples: the student trains on.
        student_flops: of training the student.
        teacher_training_flops: of training the recipe's teachers, all that have no weights yet.
        teacher_flops: of the teachers' answers while the student trains, none of them remembered.
    """

    samples: int
    student_flops: int
    teacher_training_flops: int
    teacher_flops: int

    @property
    def flops(self) -> int:
        """All of them."""
        return self.student_flops + self.teacher_training_flops + self.teacher_flops

    def seconds(self, flops_per_second: float) -> float:
        """How long all of it takes on a machine that sustains so much."""
        return self.flops / flops_per_second


def expected_cost(recipe: Recipe) -> Cost | None:
    """The cost of ``edufast train`` with ``recipe``, baselines and validation aside.

    None: it is not known how many images there are, as with folders.

    Raises:
        UserError: the recipe does not fit its data.
    """
    data = _imageless(recipe.data)
    if data is None:
        return None
    methods = Methods(recipe, data, ["education"])
    # Shapes are all that counts, and models without weights are made at once.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        student = methods.student("education", seed=0)
        teachers = [
            recipe.create_teacher_model(k, len(classes)) for k, classes in enumerate(methods.slices)
        ]
    seen = samples_of_grades(methods.education, data, recipe.training.batch_size)
    student_flops = training_flops(student, methods.education, seen)

    teaching = (recipe.teaching or recipe.training).batch_size
    teacher_training_flops = teacher_flops = 0
    visits = _visits(methods, seen)
    for k, (section, teacher) in enumerate(zip(recipe.teachers, teachers, strict=True)):
        size = section.image_size or data.image_size
        flops = forward_flops(teacher, (3, size, size))
        teacher_flops += visits[k] * flops
        if section.weights is None:
            epochs = section.epochs or recipe.teacher_epochs
            lessons = Curriculum.single(methods.slices[k], epochs)
            samples = sum(samples_of_grades(lessons, data, teaching))
            teacher_training_flops += TRAINING_FACTOR * flops * samples
    return Cost(sum(seen), student_flops, teacher_training_flops, teacher_flops)


def _imageless(section: DataSection) -> DataSet | None:
    """The data set as far as it is known: labels, but images of no pixels."""
    known = outline(section.source)
    if known is None:
        return None
    share = section.holdout
    counts = [count - (held_out(count, share) if share else 0) for count in known.train]
    labels = np.arange(len(counts), dtype=np.int64).repeat(counts)
    samples = Samples(np.empty((len(labels), 0, 0, 3), np.uint8), labels)
    names = tuple(str(number) for number in range(len(counts)))
    size = section.image_size or known.image_size
    return DataSet(section.source, names, samples, samples, size, (0.0,) * 3, (1.0,) * 3)


def _visits(methods: Methods, seen: Sequence[int]) -> list[int]:
    """Images that each teacher answers, where the student trains on so many in each grade."""
    curriculum, labels = methods.education, methods.data.train.labels
    faculty = Faculty([Teacher(nn.Identity(), classes) for classes in methods.slices])
    visits = [0] * len(faculty)
    for g, (grade, samples) in enumerate(zip(curriculum.grades, seen, strict=True)):
        if grade.target != "routed":
            for k in grade.teachers:
                visits[k] += samples
            continue
        taught = curriculum.taught(g)
        sampler: Sampler
        if curriculum.order == "slices":
            slices = [earlier.classes for earlier in curriculum.grades[: g + 1] if earlier.classes]
            sampler = SliceSampler(labels, slices, 0, grade.samples)
        else:
            groups = Supervision(faculty, grade.teachers, grade.target, taught, 1.0).groups
            batch_size = methods.recipe.training.batch_size
            sampler = MixedSampler(labels, groups, batch_size, 0, grade.samples)
        # Every epoch has as many samples of an owner as any other.
        epoch = labels[sampler(0)[: samples // grade.epochs]]
        for k in grade.teachers:
            visits[k] += grade.epochs * int(np.isin(epoch, methods.slices[k]).sum())
    return visits
