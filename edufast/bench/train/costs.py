"""Floating-point operations of a whole training, grade by grade."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edufast.bench.train.setting import TEACHERS, Pair
from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.training.curriculum import Curriculum
from edufast.training.growth import flops_per_image
from edufast.utils.flops import forward_flops

EPOCHS = 240  # as in the repositories compared with
ONE, ALL, DEFAULT = "plain KD, one full teacher", "plain KD, every teacher", "default curriculum"


@dataclass(frozen=True)
class GradeCost:
    """FLOPs (2 x multiply-adds) of one grade.

    Attributes:
        method: name of the training method.
        grade: counted from 1.
        epochs: passes over the samples of the classes taught so far.
        student: of its forward and backward passes.
        teachers: of their forward passes, without a cache.
    """

    method: str
    grade: int
    epochs: int
    student: int
    teachers: int


def training_costs(pair: Pair) -> list[GradeCost]:
    """Costs of training for ``EPOCHS`` epochs; they do not depend on the batch size."""
    share = pair.classes // TEACHERS
    slices = [range(k * share, (k + 1) * share) for k in range(TEACHERS)]
    everything = range(pair.classes)
    plain = {
        ONE: Curriculum.single(everything, EPOCHS, teachers=[0], target="full"),
        ALL: Curriculum.single(everything, EPOCHS, teachers=range(TEACHERS), target="routed"),
    }
    costs = [cost for name, curriculum in plain.items() for cost in _grades(name, curriculum, pair)]
    return costs + _grades(DEFAULT, Curriculum.graded(slices, EPOCHS), pair)


def _grades(method: str, curriculum: Curriculum, pair: Pair) -> list[GradeCost]:
    size = (3, pair.image_size, pair.image_size)
    costs = []
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # FLOPs depend on shapes only
        teacher = forward_flops(create_model(pair.teacher, pair.classes // TEACHERS), size)
        model = create_model(pair.student, pair.classes)
        student = Student(model, curriculum.fragments[-1], input_size=size)
        learned = flops_per_image(student, curriculum)
        for g, (grade, learning) in enumerate(zip(curriculum.grades, learned, strict=True)):
            images = round(pair.samples * len(curriculum.taught(g)) / pair.classes)
            teaching = grade.epochs * images * len(grade.teachers) * teacher
            costs.append(GradeCost(method, g + 1, grade.epochs, learning * images, teaching))
    return costs
