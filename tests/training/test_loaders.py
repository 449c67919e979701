"""What a grade's batches are made of."""

from __future__ import annotations

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
