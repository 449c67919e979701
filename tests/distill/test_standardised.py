"""What is particular to Standardised; its formula is tested in test_logit_algorithms.py."""

from __future__ import annotations

import pytest
import torch

from edufast.distill import Standardised
from edufast.utils.errors import UserError
from tests.distill.cases import draw


def test_scale_and_shift_of_a_row_change_nothing():
    """On either side: what counts is the order of the logits and their relative distances."""
    logits, outputs, labels = draw("several")
    algorithm = Standardised(alpha=0.0)
    loss = algorithm.logit_loss(logits, outputs, labels)
    moved = outputs._replace(logits=[5 * t - 3 for t in outputs.logits])
    again = algorithm.logit_loss(0.5 * logits + 2, moved, labels)
    torch.testing.assert_close(loss, again, rtol=1e-4, atol=1e-5)


def test_a_constant_row_is_zeros_with_a_bounded_gradient():
    _, outputs, labels = draw("full")
    logits = torch.full((len(labels), 7), 3.0, requires_grad=True)
    loss = Standardised(alpha=0.0).logit_loss(logits, outputs, labels)
    loss.backward()
    assert loss > 0 and logits.grad.isfinite().all() and logits.grad.abs().max() < 1e5


def test_both_weights_are_free():
    logits, outputs, labels = draw("full")
    hard, soft, both = (
        Standardised(alpha=alpha, beta=beta).logit_loss(logits, outputs, labels)
        for alpha, beta in ((1, 0), (0, 1), (0.1, 9))
    )
    torch.testing.assert_close(both, 0.1 * hard + 9 * soft)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_weights_below_zero_are_named(name):
    with pytest.raises(UserError, match=f"{name} is -1; expected a finite number of at least 0"):
        Standardised(**{name: -1})
