"""Calibration images that would ruin a file are refused."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.edge.calibration import check_calibration
from edufast.edge.preprocess import normalise
from tests.edge.cases import MEAN, STD

GOOD = np.random.default_rng(0).integers(0, 256, (64, 6, 8, 3), dtype=np.uint8)


def test_different_images_that_vary_are_taken_as_bytes_and_normalised() -> None:
    check_calibration(GOOD, (MEAN, STD))
    check_calibration(normalise(GOOD, MEAN, STD), None)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros_like(GOOD), "calibration: 1 different images; expected at least 64"),
        (GOOD[:63], "calibration: 63 different images; expected at least 64"),
        (np.concatenate([GOOD[:40], GOOD[:40]]), "calibration: 40 different images"),
        (GOOD // 32, "vary by 0.045 standard deviations of the training images; expected about 1"),
    ],
)
def test_black_few_and_faint_images_are_refused(images, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_calibration(images, (MEAN, STD))


def test_images_that_are_not_finite_are_refused() -> None:
    broken = normalise(GOOD, MEAN, STD)
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="vary by nan standard deviations"):
        check_calibration(broken, None)


def test_a_constant_channel_is_no_fault() -> None:
    """Its deviation in the data set is a smallest one, not 0."""
    two = GOOD.copy()
    two[..., 2] = 0
    check_calibration(two, ([0.5, 0.4, 0.0], [0.25, 0.25, 1e-3]))
