"""What is known of a data set without its images is what its images say."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.data import DATA_SETS, load_dataset
from edufast.data.outline import OUTLINES, held_out, outline


def test_every_published_data_set_has_an_outline():
    own = {"arrays", "manifest", "parquet", "hf", "webdataset"}  # whose images are the user's
    assert set(OUTLINES) == set(DATA_SETS) - own


@pytest.mark.parametrize("holdout", [0.0, 0.1, 0.5])
def test_the_outline_of_digits_is_right(holdout):
    data, known = load_dataset("digits", holdout=holdout), OUTLINES["digits"]
    expected = [n - (held_out(n, holdout) if holdout else 0) for n in known.train]
    assert np.bincount(data.train.labels).tolist() == expected
    assert data.image_size == known.image_size


def test_a_source_is_known_by_its_name():
    assert outline("cifar10:somewhere") is OUTLINES["cifar10"] is outline("cifar10")
    assert outline("somewhere/cifar10") is None and outline("mypackage.data:pets") is None


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(10, 0.25, 2), (10, 0.26, 3), (2, 0.01, 1), (2, 0.99, 1), (100, 0.999, 99)],
)
def test_a_holdout_takes_some_of_a_class_but_never_all(count, share, expected):
    assert held_out(count, share) == expected
