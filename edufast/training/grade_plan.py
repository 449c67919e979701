"""What a grade consists of, known before it begins."""

from __future__ import annotations

from typing import NamedTuple

import torch

from edufast.data import DataSet, Loader
from edufast.teachers.faculty import Faculty
from edufast.teachers.supervision import Supervision
from edufast.training.checks import check_batch
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.loaders import training_batches
from edufast.training.settings import Training


class GradePlan(NamedTuple):
    """One grade: who supervises it, and its batches."""

    grade: Grade
    supervision: Supervision
    loader: Loader

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.grade.epochs * len(self.loader)


def plan_grades(
    curriculum: Curriculum,
    faculty: Faculty,
    data: DataSet,
    training: Training,
    *,
    temperature: float,
    seed: int,
    device: torch.device,
) -> list[GradePlan]:
    """The plans of all grades.

    Args:
        temperature: of the algorithm; targets may depend on it.
        seed, device: see :func:`edufast.training.loaders.training_batches`.

    Raises:
        ValueError: a teacher does not fit a grade's target.
        UserError: a batch has fewer samples than there are processes.
    """
    plans = []
    for g, grade in enumerate(curriculum.grades):
        taught = curriculum.taught(g)
        supervision = Supervision(faculty, grade.teachers, grade.target, taught, temperature)
        loader = training_batches(
            data, curriculum, g, supervision.groups, training, seed=seed, device=device
        )
        check_batch(loader.batch_size)
        plans.append(GradePlan(grade, supervision, loader))
    return plans
