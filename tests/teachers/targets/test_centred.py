"""The centred target: what DMC regresses on, and where UHC's cross-entropy ends."""

from __future__ import annotations

import pytest
import torch

from edufast.distill import TeacherOutputs, create_algorithm
from edufast.teachers.targets.centred import centred
from tests.teachers.targets.cases import CLASSES, COLUMNS, LABELS, soft, teachers


def test_every_slice_has_the_mean_zero_and_keeps_its_differences():
    given, target = teachers(), centred(teachers(), 4.0)
    for columns, t in zip(COLUMNS, given.logits, strict=True):
        own = target[:, columns]
        torch.testing.assert_close(own.mean(1), torch.zeros(len(LABELS), dtype=torch.float64))
        torch.testing.assert_close(own - own[:, :1], t - t[:, :1])
    assert target[:, 4].isneginf().all()


def test_a_constant_of_one_teacher_changes_nothing():
    given = teachers()
    moved = given._replace(logits=[given.logits[0] + 2, *given.logits[1:]])
    torch.testing.assert_close(centred(moved, 1.0), centred(given, 1.0))


def test_the_squared_error_is_that_of_double_distillation_for_centred_students():
    """Deep Model Consolidation, for a student whose rows have mean zero."""
    taught = [column for columns in COLUMNS for column in columns]
    student = torch.randn(len(LABELS), CLASSES, generator=torch.Generator().manual_seed(1))
    student[:, taught] -= student[:, taught].mean(1, keepdim=True)
    outputs = TeacherOutputs([centred(teachers(), 1.0).float()], None, "mean", [], [], None)
    found = create_algorithm("mse", alpha=0.0).logit_loss(student, outputs, torch.tensor(LABELS))
    regressed = torch.cat([t - t.mean(1, keepdim=True) for t in teachers().logits], 1)
    expected = (student[:, taught] - regressed).square().mean(1).mean()
    torch.testing.assert_close(found.double(), expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_where_the_cross_entropy_of_uhc_ends(temperature):
    """Its objective over all classes, descended from the uniform distribution."""
    given = teachers(2, scale=1.0)
    taught = [column for columns in COLUMNS[:2] for column in columns]
    u = torch.zeros(len(LABELS), CLASSES, dtype=torch.float64, requires_grad=True)
    for _ in range(2000):
        objective = -sum(
            (torch.softmax(t / temperature, 1) * torch.log_softmax(u[:, columns], 1)).sum()
            for columns, t in zip(COLUMNS, given.logits, strict=False)
        )
        (grad,) = torch.autograd.grad(objective, u)
        u = (u - 0.5 * grad).detach().requires_grad_()
    found = soft(centred(given, temperature), temperature)[:, taught]
    torch.testing.assert_close(found, torch.softmax(u[:, taught].detach(), 1), rtol=0, atol=1e-6)
