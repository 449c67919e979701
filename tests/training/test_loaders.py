"""What a grade's batches are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edufast import Curriculum, Grade
from edufast.training.loaders import training_batches
from tests.tiny import TRAINING, tiny_data


# Groups that mix classes taught before and new ones, and groups that do not.
@pytest.mark.parametrize(
    "groups", [[range(6)], [range(2), range(2, 4), range(4, 6)], [[0, 5], [1, 2, 3, 4]]]
)
def test_rehearsal_is_the_share_of_classes_taught_before(groups):
    data = tiny_data()
    grades = [Grade(1, range(4)), Grade(1, [4, 5], rehearsal=0.25)]
    loader = training_batches(
        data, Curriculum(grades), 1, groups, TRAINING, seed=0, device=torch.device("cpu")
    )
    for batch in loader.epoch(0):
        labels = batch.labels.numpy()
        assert (labels < 4).sum() == 4  # of 16; as they are it would be 11
        assert sum(batch.parts) == 16
        owners = [number for number, group in enumerate(groups) for c in labels if c in group]
        assert [owners.count(number) for number in range(len(groups))] == list(batch.parts)


def test_without_a_share_classes_come_as_often_as_they_are():
    data = tiny_data()
    grades = [Grade(1, range(4)), Grade(1, [4, 5])]
    loader = training_batches(
        data, Curriculum(grades), 1, [range(6)], TRAINING, seed=0, device=torch.device("cpu")
    )
    labels = np.concatenate([batch.labels.numpy() for batch in loader.epoch(0)])
    assert (np.bincount(labels) == 24).all()


ONE = [Grade(1, range(6))]
# Classes 0 to 4 come half of the time, by two teachers; by balance each a tenth of the time.
REHEARSED = [Grade(1, range(5)), Grade(1, [5], rehearsal=0.5)]


@pytest.mark.parametrize(
    ("grades", "order", "groups", "expected"),
    [
        (ONE, "mixed", [range(6)], [6 / 126, 1 / 6]),
        (ONE, "slices", [range(6)], [6 / 126, 1 / 6]),
        # 126 images make three whole batches.
        ([Grade(1, [0]), Grade(1, range(1, 6))], "slices", [range(6)], [6 / 126, 1 / 6]),
        (REHEARSED, "mixed", [[0], range(1, 6)], [6 / 102 / 2, 1 / 10]),
    ],
)
def test_rare_classes_are_shown_as_the_settings_say(grades, order, groups, expected):
    data = tiny_data()
    few = data.train.subset(np.flatnonzero((data.train.labels > 0) | (np.arange(144) % 4 == 0)))
    data = replace(data, train=few)  # 6 images of class 0, 24 of the others
    shown = []
    for balance in (0.0, 1.0):
        loader = training_batches(
            data, Curriculum(grades, order=order), len(grades) - 1, groups,
            replace(TRAINING, batch_size=32, balance=balance), seed=0, device=torch.device("cpu"),
        )  # fmt: skip
        labels = [batch.labels.numpy() for epoch in range(9) for batch in loader.epoch(epoch)]
        shown.append((np.concatenate(labels) == 0).mean())
    assert shown == pytest.approx(expected, abs=0.02)
