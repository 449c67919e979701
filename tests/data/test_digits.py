"""The embedded digits: sizes, shares, and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edufast.data import load_dataset
from tests.data.folders import images_of


def test_digits():
    digits = load_dataset("digits")
    assert digits.name == "digits" and digits.classes == tuple("0123456789")
    assert digits.train.images.shape == (len(digits.train), 32, 32, 3)
    assert digits.train.images.dtype == np.uint8 and digits.train.images.max() == 255
    assert len(digits.train) + len(digits.val) == 1797
    share = np.bincount(digits.val.labels) / np.bincount(
        np.concatenate([digits.train.labels, digits.val.labels])
    )
    assert np.allclose(share, 0.2, atol=0.01)
    again = load_dataset("digits")
    assert np.array_equal(digits.val.images, again.val.images)
    assert load_dataset("digits", image_size=16).val.images.shape[1:] == (16, 16, 3)


def test_seeds_split_digits_anew_and_seed_0_takes_every_fifth():
    first, second = load_dataset("digits"), load_dataset("digits", seed=1)
    pixels, labels = load_digits(return_X_y=True)
    fifth = np.concatenate([np.flatnonzero(labels == c)[4::5] for c in range(10)])
    darkness = sorted(np.rint(pixels[fifth] * (255 / 16)).astype(int).mean(axis=1))
    small = load_dataset("digits", image_size=8).val.images[..., 0]
    assert sorted(small.mean(axis=(1, 2))) == pytest.approx(darkness)
    assert np.array_equal(np.bincount(first.val.labels), np.bincount(second.val.labels))
    common = images_of(first.val) & images_of(second.val)
    assert len(common) < len(first.val) / 2
    again = load_dataset("digits", seed=1)
    assert np.array_equal(again.val.images, second.val.images)
