"""What is particular to LogitMSE; its formula is tested in test_logit_algorithms.py."""

from __future__ import annotations

import math

import pytest
import torch

from edufast.distill import KD, LogitMSE
from edufast.utils.errors import UserError
from tests.distill.cases import draw


def test_a_constant_added_to_a_row_changes_nothing():
    """On either side: a softmax does not see it."""
    logits, outputs, labels = draw("several")
    loss = LogitMSE(alpha=0.0).logit_loss(logits, outputs, labels)
    shifts = torch.arange(len(labels))[:, None].float()
    moved = outputs._replace(logits=[t - 2 * shifts for t in outputs.logits])
    again = LogitMSE(alpha=0.0).logit_loss(logits + shifts, moved, labels)
    torch.testing.assert_close(loss, again)


def test_it_is_twice_the_limit_of_distillation_at_high_temperature():
    logits, outputs, labels = draw("full")
    loss = LogitMSE(alpha=0.0).logit_loss(logits, outputs, labels)
    limit = KD(temperature=300.0, alpha=0.0).logit_loss(logits, outputs, labels)
    torch.testing.assert_close(loss / 2, limit, rtol=0.02, atol=0)


def test_rows_without_weight_may_hold_anything():
    """Where samples are routed, the rows of other owners are NaN."""
    logits, outputs, labels = draw("routed")
    assert any(answer.isnan().any() for answer in outputs.logits)
    loss = LogitMSE(alpha=0.0).logit_loss(logits, outputs, labels)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and grad.isfinite().all()


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="alpha is nan"):
        LogitMSE(alpha=math.nan)
    with pytest.raises(UserError, match="temperature is -1; expected a finite number above 0"):
        LogitMSE(temperature=-1)
