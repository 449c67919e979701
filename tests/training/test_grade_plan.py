"""What grades consist of, before they begin."""

from __future__ import annotations

import pytest
import torch

from edufast.training.curriculum import Curriculum, Grade
from edufast.training.grade_plan import GradePlan, plan_grades
from edufast.utils.errors import UserError
from tests.tiny import TRAINING, tiny_data, tiny_faculty

SLICES = [range(0, 2), range(2, 6)]


def plans(*grades: Grade) -> list[GradePlan]:
    return plan_grades(
        Curriculum(grades),
        tiny_faculty(*SLICES),
        tiny_data(per_class=24),
        TRAINING,
        temperature=4.0,
        seed=0,
        device=torch.device("cpu"),
    )


def test_steps_are_those_of_all_epochs_over_the_classes_taught():
    first, second = plans(Grade(2, SLICES[0], [0]), Grade(3, SLICES[1], [0, 1]))
    assert (first.steps, second.steps) == (2 * 2 * 24 // 16, 3 * 6 * 24 // 16)


def test_batches_come_in_the_groups_that_the_teachers_need():
    _, plan = plans(Grade(1, SLICES[0]), Grade(1, SLICES[1], [1, 0], target="routed"))
    assert plan.supervision.groups == [(2, 3, 4, 5), (0, 1)]
    batch = next(plan.loader.epoch(0))
    assert sum(batch.parts) == 16 and set(batch.labels[: batch.parts[0]].tolist()) <= {2, 3, 4, 5}


def test_a_grade_of_fewer_samples_than_processes_is_refused(monkeypatch):
    monkeypatch.setattr("edufast.training.checks.size", lambda: 17)
    with pytest.raises(UserError, match="a batch has 16 samples; expected at least one for each"):
        plans(Grade(1, range(6)))
