"""FitNet against its formula in float64, in one stage and in two."""

from __future__ import annotations

import pytest
import torch

from edufast.distill import KD, FitNet
from edufast.utils.errors import UserError
from tests.distill.feature_cases import ALL, BATCH, NONE, OWN, batch, check, over_teachers, prepared


@pytest.mark.parametrize("rows", [ALL, OWN, NONE])
def test_fitnet_is_the_regression_of_the_middle_map(rows):
    features, outputs, labels = batch(rows)
    algorithm = prepared(FitNet(weight=7.0))

    def of_teacher(position, part):
        regressor = algorithm.adapters[str(position)]
        weight, bias = regressor.weight.double()[:, :, 0, 0], regressor.bias.double()
        hint = outputs.features[position][1].double()
        # The first teacher's maps pair 8-8, 4-4, 2-2; the second's 16-8, 4-4, 4-2.
        f = features[1][part].double()
        answer = torch.einsum("oc,bchw->bohw", weight, f) + bias[:, None, None]
        return 7.0 * ((answer - hint) ** 2).mean()

    check(algorithm, features, outputs, labels, over_teachers(outputs, of_teacher))


def test_two_stage_fitnet_hints_first_and_distils_then():
    features, outputs, labels = batch(ALL)
    logits = torch.randn(BATCH, 5, requires_grad=True)
    algorithm = prepared(FitNet("two_stage", hint_share=0.25))
    plain = KD().logit_loss(logits, outputs, labels)
    losses = []
    for epoch in range(8):
        algorithm.begin_epoch(epoch, 8)
        of_logits = algorithm.logit_loss(logits, outputs, labels)
        losses.append((of_logits.item(), algorithm.feature_loss(features, outputs, labels).item()))
    hint = losses[0][1]
    assert hint > 0
    assert losses == [(0.0, hint)] * 2 + [(plain.item(), 0.0)] * 6


def test_the_share_of_the_hint_is_at_least_one_epoch():
    algorithm = prepared(FitNet("two_stage", hint_share=0.0))
    for epoch, hinted in enumerate([1, 0, 0]):
        algorithm.begin_epoch(epoch, 3)
        assert algorithm.guides.tolist() == [1 - hinted, hinted]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "three"}, "stage is 'three'; expected 'joint' or 'two_stage'"),
        ({"hint_share": 2}, r"hint_share is 2; expected a finite number in \[0, 1\]"),
        ({"weight": 0}, "weight is 0; expected a finite number above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(UserError, match=message):
        FitNet(**options)
