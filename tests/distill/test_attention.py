"""Attention transfer against its formula in float64."""

from __future__ import annotations

import pytest
import torch

from edufast.distill import AttentionTransfer
from edufast.utils.errors import UserError
from tests.distill.feature_cases import ALL, NONE, OWN, batch, check, over_teachers, prepared


def pooled_by_two(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


@pytest.mark.parametrize("rows", [ALL, OWN, NONE])
def test_attention_transfer_is_the_distance_of_normalised_maps(rows):
    features, outputs, labels = batch(rows)
    algorithm = prepared(AttentionTransfer(weight=3.0))

    def attention(x):
        flat = (x.double() ** 2).mean(1).flatten(1)
        return flat / flat.norm(dim=1, keepdim=True)

    def of_teacher(position, part):
        s = [f[part] for f in features]
        t = outputs.features[position]
        if position == 0:
            pairs = [(s[0], t[0]), (s[1], t[1]), (s[2], t[2])]
        else:
            pairs = [(s[0], pooled_by_two(t[0])), (s[1], t[1]), (s[2], pooled_by_two(t[1]))]
        return 3.0 * sum(((attention(a) - attention(b)) ** 2).mean() for a, b in pairs)

    check(algorithm, features, outputs, labels, over_teachers(outputs, of_teacher))


def test_only_where_features_are_strong_counts_not_how_strong():
    features, outputs, labels = batch(ALL)
    algorithm = prepared(AttentionTransfer())
    loss = algorithm.feature_loss(features, outputs, labels)
    stronger = outputs._replace(features=[[5 * t for t in maps] for maps in outputs.features])
    flipped = [-3 * f for f in features]
    torch.testing.assert_close(algorithm.feature_loss(flipped, stronger, labels), loss)


def test_nothing_is_learned_beside_the_student():
    assert not list(prepared(AttentionTransfer()).parameters())


def test_the_weight_must_be_above_zero():
    with pytest.raises(UserError, match="weight is 0; expected a finite number above 0"):
        AttentionTransfer(weight=0)
