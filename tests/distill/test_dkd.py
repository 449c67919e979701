"""What is particular to DKD; its formula is tested in test_logit_algorithms.py."""

from __future__ import annotations

import math

import pytest
import torch

from edufast.distill import DKD, KD
from edufast.utils.errors import UserError
from tests.distill.cases import cross_entropy, draw


def test_it_warms_up_without_a_new_constant():
    """The factor is a buffer: a compiled step that reads it need not be compiled again."""
    logits, outputs, labels = draw("full")
    algorithm = DKD(warm_up=4)
    buffer = algorithm.warm
    full = algorithm.logit_loss(logits, outputs, labels)
    hard = cross_entropy(logits, labels).float()
    for epoch, share in enumerate([0.25, 0.5, 0.75, 1, 1]):
        algorithm.begin_epoch(epoch, 5)
        loss = algorithm.logit_loss(logits, outputs, labels)
        torch.testing.assert_close(loss, hard + share * (full - hard))
    assert algorithm.warm is buffer and math.isclose(algorithm.state_dict()["warm"], 1)


def test_without_warm_up_it_starts_at_full_strength():
    algorithm = DKD(warm_up=0)
    algorithm.begin_epoch(0, 5)
    assert algorithm.warm == 1


def test_weights_of_the_two_terms_are_those_of_the_divergence():
    logits, outputs, labels = draw("full")
    loss = DKD(target_weight=2.0, rest_weight=3.0).logit_loss(logits, outputs, labels)
    divergence = KD(alpha=0.0, divergence="dkd", divergence_params=[2.0, 3.0])
    expected = cross_entropy(logits, labels) + divergence.logit_loss(logits, outputs, labels)
    torch.testing.assert_close(loss.double(), expected)


def test_a_teacher_without_the_label_compares_its_own_classes():
    """One of two slices holds the label: the other has the second term over its whole slice."""
    logits, outputs, labels = draw("routed")
    swapped = outputs._replace(
        logits=[torch.ones_like(t) for t in outputs.logits], weighting="mean"
    )
    loss = DKD(target_weight=1.0, rest_weight=0.0).logit_loss(logits, swapped, labels)
    both = DKD(target_weight=1.0, rest_weight=1.0).logit_loss(logits, swapped, labels)
    assert loss.isfinite() and both > loss


@pytest.mark.parametrize("name", ["target_weight", "rest_weight", "warm_up"])
def test_arguments_below_zero_are_named(name):
    with pytest.raises(UserError, match=f"{name} is -1; expected a finite number of at least 0"):
        DKD(**{name: -1})
