"""The references of AEKD's weights; the solver itself is tried with cpp in test_min_norm.py."""

from __future__ import annotations

import pytest
import torch

from edufast.ops import kd_loss
from edufast.ops.reference.min_norm import Weights, leaves_one_point, reference_gram
from tests.ops.gram_cases import Case, inputs, problem


def test_gram_is_that_of_kd_losses_gradients():
    z, teachers, arguments = inputs(Case(dtype=torch.float64, slices="overlapping"))
    grads = []
    for k in range(3):
        weights = torch.eye(3)[k]
        leaf = z.clone().requires_grad_()
        loss = kd_loss(
            leaf, teachers, torch.zeros(6, dtype=torch.long), alpha=0.0, weighting=weights,
            reduction="sum", **arguments,
        )  # fmt: skip
        grads.append(torch.autograd.grad(loss, leaf)[0].flatten())
    expected = torch.stack(grads) @ torch.stack(grads).T
    for gram in (reference_gram, lambda p: torch.ops.edufast.gradient_gram(*p)):
        torch.testing.assert_close(gram(problem(z, teachers, **arguments)), expected)


GRAMS = [
    (torch.zeros(3, 2).double(), 1.0, r"gram has shape \(3, 2\)"),
    (torch.zeros(3).double(), 1.0, r"gram has shape \(3,\)"),
    (torch.zeros(0, 0).double(), 1.0, "1 <= K <= 32"),
    (torch.zeros(33, 33).double(), 1.0, "1 <= K <= 32"),
    (torch.zeros(3, 3), 1.0, "dtype torch.float32"),
    (torch.zeros(3, 3).double(), 1 / 3, "cap is 0.333"),
    (torch.zeros(3, 3).double(), 1.5, "cap is 1.5"),
    (torch.zeros(3, 3).double(), float("nan"), "cap is nan"),
]


@pytest.mark.parametrize(("gram", "cap", "message"), GRAMS)
def test_what_is_no_problem_is_refused(gram, cap, message):
    with pytest.raises(ValueError, match=message):
        Weights(gram, cap).check()


def test_one_teacher_and_a_cap_of_one_over_k_leave_one_point():
    assert leaves_one_point(1.0, 1) and leaves_one_point(1 / 3, 3)
    assert not leaves_one_point(0.34, 3) and not leaves_one_point(1.0, 2)
