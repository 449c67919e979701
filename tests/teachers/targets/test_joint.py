"""The joint target is one softmax over all classes that somebody teaches."""

from __future__ import annotations

import pytest
import torch

from edufast.teachers.targets.joint import joint
from tests.teachers.targets.cases import CLASSES, COLUMNS, LABELS, soft, teachers


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_all_logits_are_under_one_softmax(temperature):
    given = teachers()
    expected = torch.zeros(len(LABELS), CLASSES, dtype=torch.float64)
    for row in range(len(LABELS)):
        total = sum(float((t[row] / temperature).exp().sum()) for t in given.logits)
        for columns, t in zip(COLUMNS, given.logits, strict=True):
            for column, logit in zip(columns, t[row], strict=True):
                expected[row, column] = (logit / temperature).exp() / total
    torch.testing.assert_close(soft(joint(given, temperature), temperature), expected)


def test_a_constant_of_one_teacher_orders_the_slices():
    given = teachers()
    moved = given._replace(logits=[given.logits[0] + 2, *given.logits[1:]])
    ratio = (soft(joint(moved, 1.0), 1.0) / soft(joint(given, 1.0), 1.0)).log()
    torch.testing.assert_close(
        ratio[:, COLUMNS[0]] - ratio[:, COLUMNS[2]], torch.full((6, 3), 2.0, dtype=torch.float64)
    )
