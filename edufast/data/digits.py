"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels that come with the package."""

from __future__ import annotations

import numpy as np

from edufast.data.rng import Stream, generator
from edufast.data.samples import Samples, Splits


def digits(seed: int = 0) -> Splits:
    """Every fifth image of each class is for validation.

    With seed 0 in the order in which they are stored, which is by writer, so that most writers are
    in both splits. With another seed in a random order.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    everything = Samples(np.repeat(grey[..., None], 3, axis=3), labels.astype(np.int64))
    is_val = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        if seed:
            members = generator(seed, Stream.SPLIT, label).permutation(members)
        is_val[members[4::5]] = True
    classes = tuple(str(digit) for digit in range(10))
    train, val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
    return Splits(classes, everything.subset(train), everything.subset(val))
