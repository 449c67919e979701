"""The weights of the teachers, by the reference and by cpp."""

from __future__ import annotations

import math

import pytest
import torch

from edufast.ops import ClassSlices, kd_loss
from edufast.ops.reference.kd_loss_weights import WEIGHTINGS as NUMBERS
from edufast.ops.reference.kd_loss_weights import row_weights
from tests.ops.cases import WEIGHTINGS, Case, evaluate, inputs

BACKENDS = ("cpp", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS if not w.startswith("given")])
def test_weights_sum_to_one(weighting, backend):
    """Equal teachers: only the sum of their weights shows."""
    x = inputs(Case(weighting=weighting, alpha=0.0, reduction="none"))
    x.teachers = [x.teachers[0]] * 3
    several = evaluate(x, backend).loss
    x.teachers, x.arguments["weighting"] = x.teachers[:1], "mean"
    torch.testing.assert_close(several, evaluate(x, backend).loss)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_confidence_of_teachers_that_rule_the_label_out(backend):
    """Both know the label and give it probability 0: equally wrong, so they share the weight."""
    logits = torch.zeros(1, 3, dtype=torch.float64)
    wrong = torch.tensor([[-math.inf, 1.0, 0.0]], dtype=torch.float64)
    label = torch.tensor([0])
    confident, mean = (
        kd_loss(logits, [wrong, wrong], label, weighting=weighting, backend=backend)
        for weighting in ("confidence", "mean")
    )
    torch.testing.assert_close(confident, mean)


def test_routed_weights_go_to_the_owners_of_the_label():
    slices = ClassSlices.of([(0, 2), (1, 4), [3]], 4)
    teachers = [torch.zeros(4, n) for n in slices.sizes]
    weights = row_weights(NUMBERS["routed"], torch.arange(4), slices, teachers)
    assert weights.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5]]
