"""Splits check themselves when they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edufast.data import DataSet, Samples

LABELS = np.array([0, 1], dtype=np.int64)
IMAGES = np.zeros((2, 8, 6, 3), dtype=np.uint8)
FILES = (Path("a.png"), Path("b.png"))


@pytest.mark.parametrize("images", [IMAGES, FILES])
def test_a_subset_has_its_samples_in_the_order_asked_for(images):
    samples = Samples(images, LABELS)
    subset = samples.subset(np.array([1, 0, 1]))
    assert len(samples) == 2 and len(subset) == 3
    assert subset.labels.tolist() == [1, 0, 1]
    pairs = zip(subset.images, (1, 0, 1), strict=True)
    assert all(np.array_equal(image, images[i]) for image, i in pairs)
    assert type(subset.images) is type(images)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (IMAGES, np.zeros(3, dtype=np.int64), ValueError, "labels: expected 2, got 3"),
        (FILES, np.zeros(1, dtype=np.int64), ValueError, "labels: expected 2, got 1"),
        (IMAGES, np.zeros(2, dtype=np.int32), TypeError, "an array of int64, got int32"),
        (IMAGES, [0, 1], TypeError, "labels: expected an array of int64, got list"),
        (IMAGES / 255, LABELS, ValueError, r"array \(N, H, W, 3\), got float64 \(2, 8, 6, 3\)"),
        (IMAGES[..., 0], LABELS, ValueError, r"images: expected a uint8 array \(N, H, W, 3\), got"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, ValueError, r"got uint8 \(2, 3, 8, 6\)"),
        (list(FILES), LABELS, TypeError, "images: expected an array or a tuple of Paths"),
        (("a.png", "b.png"), LABELS, TypeError, "images: expected an array or a tuple of Paths"),
    ],
)
def test_what_is_no_split_is_told(images, labels, error, message):
    with pytest.raises(error, match=message):
        Samples(images, labels)


def toy(**other) -> DataSet:
    samples = Samples(IMAGES, LABELS)
    given = {"train": samples, "val": samples, "mean": (0.5,) * 3, "std": (0.2,) * 3, **other}
    return DataSet("toy", ("a", "b"), image_size=8, **given)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_named(split, label):
    wrong = Samples(IMAGES, np.array([0, label]))
    expected = f"{split} has the label {label} at position 1; expected 0 to 1, a position in classe"
    with pytest.raises(ValueError, match=expected):
        toy(**{split: wrong})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mean", (0.5,)),
        ("mean", (123.675, 116.28, 103.53)),  # of pixels up to 255
        ("mean", (float("nan"), 0.5, 0.5)),
        ("std", (0.0, 0.0, 0.0)),
        ("std", 0.5),
    ],
)
def test_a_mean_or_deviation_that_no_images_have_is_named(name, values):
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected 3 finite .* pixel / 255$"):
        toy(**{name: values})


def test_means_of_numpy_and_torch_become_numbers():
    data = toy(mean=np.full(3, 0.5), std=torch.full((3,), 0.25))
    assert (data.mean, data.std) == ((0.5,) * 3, (0.25,) * 3)
