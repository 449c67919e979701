"""Caltech-256 is read as published, or the damage is told by name."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edufast.data import caltech256, load_dataset
from tests.data.published import check_folder_and_parent, refuses, write_caltech256


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(caltech256, "TRAIN_PER_CLASS", 2)


def test_the_folder_or_its_parent_is_read(tmp_path):
    check_folder_and_parent("caltech256", write_caltech256(tmp_path), 224)


def test_caltech256_leaves_the_clutter_out_and_splits_by_name_and_seed(tmp_path):
    data = load_dataset(f"caltech256:{write_caltech256(tmp_path)}")
    assert data.classes[:2] == ("ak47", "thing-2") and len(data.classes) == 256
    assert np.bincount(data.train.labels).tolist() == [2] * 256
    assert np.bincount(data.val.labels).tolist() == [1] * 256
    assert set(data.train.images).isdisjoint(data.val.images)
    other = load_dataset(f"caltech256:{tmp_path / '256_ObjectCategories'}", seed=1)
    same = [a == b for a, b in zip(data.val.images, other.val.images, strict=True)]
    assert 0.1 < np.mean(same) < 0.6
    os.rename(tmp_path / "256_ObjectCategories", tmp_path / "moved")
    moved = load_dataset(f"caltech256:{tmp_path / 'moved'}", image_size=32)
    assert [p.name for p in moved.val.images] == [p.name for p in data.val.images]


def test_a_folder_without_the_data_says_what_is_expected(tmp_path):
    refuses(
        f"caltech256:{tmp_path}",
        r"256_ObjectCategories/001.ak47; expected 256_ObjectCategories.tar, unpac",
    )


# What is done to a miniature, and what the message must name: the file and what was expected.
DAMAGE = [
    (
        lambda root: os.rename(root / "077.thing-77", root / "thing-77"),
        r"has no class 077; it is part of 256_ObjectCategories.tar",
    ),
    (
        lambda root: (root / "077.thing-77" / "077_0002.jpg").unlink(),
        r"077.thing-77: has 2 images; expected more than the 2 for training",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_told_by_name(damage, message, tmp_path):
    root = write_caltech256(tmp_path)
    damage(root)
    refuses(f"caltech256:{root}", message)
