"""The compute that a recipe takes, estimated before any image is read or anything is trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edufast.data import DataSet, Samples
from edufast.data.outline import held_out, outline
from edufast.experiments.baselines import samples_of_grades
from edufast.experiments.method import Method, plan_methods
from edufast.experiments.recipe import DataSection, Recipe
from edufast.experiments.teacher_training import absent_teacher
from edufast.teachers.faculty import Faculty
from edufast.teachers.supervision import Supervision
from edufast.training.loaders import training_sampler
from edufast.utils.flops import TRAINING_FACTOR, forward_flops


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (2 x multiply-adds) as :class:`edufast.School` counts them.

    Attributes:
        samples: the student trains on.
        student_flops: of training the student.
        teaching_flops: of training each of the recipe's teachers; 0 for those that have weights, or
            that nobody asks.
        teaching_samples: that each of them trains on.
        forward_flops: of each teacher's forward passes while the student trains, none cached.
    """

    samples: int
    student_flops: int
    teaching_flops: tuple[int, ...]
    forward_flops: tuple[int, ...]
    teaching_samples: tuple[int, ...]

    @property
    def flops(self) -> int:
        """All of them."""
        return self.student_flops + sum(self.teaching_flops) + sum(self.forward_flops)


def expected_cost(
    recipe: Recipe, data: DataSet | None = None, trained: Collection[int] | None = None
) -> Cost | None:
    """The cost of ``edufast train`` with ``recipe``, baselines and validation aside.

    None: it is not known how many images there are, as with folders.

    Args:
        recipe: the run.
        data: of the recipe, if it is loaded already.
        trained: positions of the teachers that are trained if they have no weights; None: of those
            that education learns from.

    Raises:
        UserError: the recipe does not fit its data.
    """
    data = data or _imageless(recipe.data)
    if data is None:
        return None
    education = plan_methods(recipe, data, ["education"])["education"]
    trained = education.teachers if trained is None else trained
    slices = recipe.teacher_classes(data)
    # Only shapes matter here, and models without weights are created instantly.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        student_flops = education.training_flops()
        teachers = [
            recipe.create_teacher_model(k, len(classes)) for k, classes in enumerate(slices)
        ]

    teaching = (recipe.teaching or recipe.training).batch_size
    taught, seen, answered = [], [], []
    visits = _visits(education, slices)
    for k, (section, teacher) in enumerate(zip(recipe.teachers, teachers, strict=True)):
        size = section.image_size or data.image_size
        flops = forward_flops(teacher, (3, size, size))
        answered.append(visits[k] * flops)
        total = images = 0
        if section.finished is None and k in trained:
            lessons = recipe.teacher_curriculum(k, data)
            samples = samples_of_grades(lessons, data, teaching)
            for grade, count in zip(lessons.grades, samples, strict=True):
                side = grade.image_size or size
                total += TRAINING_FACTOR * forward_flops(teacher, (3, side, side)) * count
                images += count
        taught.append(total)
        seen.append(images)
    return Cost(sum(education.samples), student_flops, tuple(taught), tuple(answered), tuple(seen))


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


def _visits(education: Method, slices: Sequence[Sequence[int]]) -> list[int]:
    """Images that each teacher answers; ``slices`` are the class ids that each knows."""
    curriculum, data = education.curriculum, education.data
    training = education.recipe.create_training()
    faculty = Faculty([absent_teacher(classes) for classes in slices])
    visits = [0] * len(faculty)
    for g, (grade, samples) in enumerate(zip(curriculum.grades, education.samples, strict=True)):
        if grade.target != "routed":
            for k in grade.teachers:
                visits[k] += samples
            continue
        taught = curriculum.taught(g)
        groups = Supervision(faculty, grade.teachers, grade.target, taught, 1.0).groups
        sampler = training_sampler(data, curriculum, g, groups, training, seed=0)
        # Every epoch has as many samples of an owner as any other.
        epoch = data.train.labels[sampler(0)[: samples // grade.epochs]]
        for k in grade.teachers:
            visits[k] += grade.epochs * int(np.isin(epoch, slices[k]).sum())
    return visits
