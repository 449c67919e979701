"""Images that quantisation takes the ranges of activations from, and which of them it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edufast.edge.preprocess import normalise

MIN_IMAGES = 64
# Of normalised images, whose standard deviation over a training split is 1 by construction.
MIN_SPREAD = 0.1


def check_calibration(
    images: NDArray[Any], constants: tuple[list[float], list[float]] | None
) -> None:
    """Refuse images whose ranges say nothing about real ones: too few, copies, black ones.

    Args:
        images: (N, H, W, C) uint8 with ``constants`` (mean, std), else (N, C, H, W) float32,
            normalised.

    Raises:
        ValueError: fewer than `MIN_IMAGES` are different, they hardly vary, or they are not finite.
    """
    different = len({image.tobytes() for image in images})
    if different < MIN_IMAGES:
        raise ValueError(
            f"calibration: {different} different images; expected at least {MIN_IMAGES} of the "
            "training split"
        )
    normalised = images if constants is None else normalise(images, *constants)
    spread = normalised.std(axis=(0, 2, 3), dtype=np.float64).max()
    if not spread >= MIN_SPREAD:  # nan, too
        raise ValueError(
            f"calibration: the images vary by {spread:.2g} standard deviations of the training "
            f"images; expected about 1, at least {MIN_SPREAD}"
        )
