"""What baselines do differently from education: their curricula, and plain distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edufast.data import DataSet
from edufast.experiments.recipe import AlgorithmSection
from edufast.training.curriculum import Curriculum, Grade


def samples_of_grades(curriculum: Curriculum, data: DataSet, batch_size: int) -> list[int]:
    """Samples each grade trains on in all its epochs, of whole batches each."""
    totals = []
    for g, grade in enumerate(curriculum.grades):
        available = int(np.isin(data.train.labels, curriculum.taught(g).ids).sum())
        samples = grade.samples or available
        # A set smaller than a batch still makes one.
        totals.append(grade.epochs * (samples // batch_size * batch_size or samples))
    return totals


def single_grade(
    education: Curriculum, samples: int, batch_size: int, teachers: Sequence[int], target: str
) -> Curriculum:
    """One grade over all classes of ``education``, with its schedule of learning rates."""
    steps = max(1, round(samples / batch_size))
    epochs = _even_epochs(steps, sum(grade.epochs for grade in education.grades))
    length = round(steps / epochs) * batch_size
    grade = Grade(epochs, education.class_map.ids, teachers, target=target, samples=length)
    return Curriculum([grade], schedule=education.schedule)


def without_teachers(
    education: Curriculum, samples: int, batch_size: int, data: DataSet
) -> Curriculum:
    """The grades of ``education`` without their teachers, all longer or shorter by one factor."""
    scaled = _samples_per_epoch(education, samples, batch_size, data)
    if samples == sum(samples_of_grades(education, data, batch_size)):
        scaled = [grade.samples for grade in education.grades]
    grades = [
        replace(grade, teachers=(), target="none", samples=count)
        for grade, count in zip(education.grades, scaled, strict=True)
    ]
    return replace(education, grades=grades)


def growing_sizes(
    education: Curriculum,
    samples: int,
    batch_size: int,
    data: DataSet,
    teachers: Sequence[int],
    target: str,
) -> Curriculum:
    """The image sizes of ``education``'s grades, all longer or shorter by one factor, and nothing
    else: every grade has all classes and the whole student."""
    scaled = _samples_per_epoch(education, samples, batch_size, data)
    grades = [
        Grade(
            grade.epochs,
            () if number else education.class_map.ids,
            teachers,
            fragments=1,
            target=target,
            samples=count,
            image_size=grade.image_size,
        )
        for number, (grade, count) in enumerate(zip(education.grades, scaled, strict=True))
    ]
    return Curriculum(grades, schedule=education.schedule)


def _samples_per_epoch(
    education: Curriculum, samples: int, batch_size: int, data: DataSet
) -> list[int | None]:
    """Of each grade, in whole batches, all longer or shorter by one factor for ``samples`` in
    all."""
    seen = samples_of_grades(education, data, batch_size)
    factor = samples / sum(seen)
    return [
        max(1, round(factor * count / grade.epochs / batch_size)) * batch_size
        for grade, count in zip(education.grades, seen, strict=True)
    ]


def _even_epochs(steps: int, epochs: int) -> int:
    """``epochs`` or up to half as many more: where equal epochs best add up to ``steps``."""
    if steps <= epochs:
        return steps
    candidates = range(epochs, epochs + epochs // 2 + 1)
    return min(candidates, key=lambda count: abs(steps - count * round(steps / count)))


def plain_distillation(section: AlgorithmSection) -> AlgorithmSection:
    """KD, with temperature and alpha of the recipe's algorithm where they mean the same."""
    options = section.model_extra or {}
    if section.name not in ("kd", "reverse_kl", "js"):
        options = {}
    kept = {key: value for key, value in options.items() if key in ("temperature", "alpha")}
    return AlgorithmSection(name="kd", **kept)
