"""What an algorithm has to bring, and how its numbers are checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edufast.distill import Algorithm, GradeContext
from edufast.distill.algorithm import above_zero, at_least_zero, share
from edufast.utils.errors import UserError
from tests.distill.cases import draw


def test_an_algorithm_of_ones_own_needs_one_method():
    class Agree(Algorithm):
        def logit_loss(self, logits, outputs, labels):
            return (logits.argmax(1) != labels).float().mean()

    logits, outputs, labels = draw("full")
    own = Agree(1.0)
    own.begin_epoch(0, 1)
    assert own.logit_loss(logits, outputs, labels) >= 0
    assert own.feature_loss([logits], outputs, labels) == 0 and not own.reads_features


def test_an_algorithm_without_a_loss_is_none():
    with pytest.raises(NotImplementedError):
        Algorithm(1.0).logit_loss(*draw("full"))
    with pytest.raises(UserError, match="temperature is 'hot'; expected a finite number above 0"):
        Algorithm("hot")


def test_a_context_counts_all_training_samples_taught_or_not():
    labels = torch.tensor([0, -1, 2, -1])
    context = GradeContext([(8,)], (0,), [], labels, None, torch.device("cpu"))
    assert context.num_samples == 4


@pytest.mark.parametrize(
    ("check", "fitting", "wrong", "expected"),
    [
        (above_zero, (1e-9, np.int64(3)), (0, True, 10**5000, math.nan, "1", None), "above 0"),
        (at_least_zero, (0, 0.5), (-1e-9, False, math.inf, math.nan, [1]), "of at least 0"),
        (share, (0, 1, np.float32(0.5)), (-0.1, 1.1, True, math.nan, "half"), r"in \[0, 1\]"),
    ],
)
def test_numbers_are_checked_by_name(check, fitting, wrong, expected):
    for value in fitting:
        assert check("x", value) == value and type(check("x", value)) is float
    for value in wrong:
        with pytest.raises(UserError, match=f"x is .*; expected a finite number {expected}"):
            check("x", value)
