"""What is particular to DIST; its formula is tested in test_logit_algorithms.py."""

from __future__ import annotations

import math

import pytest
import torch

from edufast.distill import DIST
from edufast.utils.errors import UserError
from tests.distill.cases import BATCH, cross_entropy, draw


def soft_part(algorithm: DIST, logits, outputs, labels) -> torch.Tensor:
    return algorithm.logit_loss(logits, outputs, labels).double() - cross_entropy(logits, labels)


def test_it_is_zero_for_a_student_that_correlates_perfectly():
    _, outputs, labels = draw("full")
    agreeing = outputs.logits[0].clone()
    torch.testing.assert_close(
        soft_part(DIST(), agreeing, outputs, labels),
        torch.zeros((), dtype=torch.float64),
        rtol=0,
        atol=1e-6,
    )


def test_rows_and_columns_count_by_their_weights():
    logits, outputs, labels = draw("several")
    rows, columns, both = (
        soft_part(DIST(beta=beta, gamma=gamma), logits, outputs, labels)
        for beta, gamma in ((1, 0), (0, 1), (2, 3))
    )
    assert rows > 0 and columns > 0
    torch.testing.assert_close(both, 2 * rows + 3 * columns, rtol=1e-5, atol=1e-6)


def test_the_square_of_the_temperature_is_applied():
    """At a high temperature probabilities are linear in the logits, and correlations constant."""
    logits, outputs, labels = draw("full")
    warm, hot = (soft_part(DIST(t), logits, outputs, labels) for t in (1e3, 2e3))
    torch.testing.assert_close(
        hot / warm, torch.tensor(4.0, dtype=torch.float64), rtol=0.02, atol=0
    )


def test_routed_teachers_count_by_their_share_of_the_batch():
    """Each is compared on its own rows; rows without an owner leave the weights below 1."""
    logits, outputs, labels = draw("routed")
    whole = soft_part(DIST(), logits, outputs, labels)
    parts = []
    for k, part in enumerate(outputs.rows):
        count = part.stop - part.start
        alone = outputs._replace(
            rows=[part if j == k else slice(0, 0) for j in range(len(outputs.rows))]
        )
        found = soft_part(DIST(), logits, alone, labels)
        assert 0 < found < DIST().beta * 4 * count / BATCH
        parts.append(found)
    torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"beta": math.inf}, {"gamma": -1}, {"beta": "x"}])
def test_arguments_that_do_not_fit_are_named(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name} is .*; expected a finite number of at least 0"):
        DIST(**options)
