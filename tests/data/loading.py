"""Loaders of a small split, and what their batches show."""

from __future__ import annotations

import numpy as np
import torch

from edufast.data import Augment, Loader, Samples

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RNG = np.random.default_rng(0)
SAMPLES = Samples(
    RNG.integers(0, 256, size=(50, 16, 16, 3), dtype=np.uint8),
    RNG.permutation(np.repeat(np.arange(5), 10)),
)


class ShuffledSampler:
    """All samples of ``classes``, in another order every epoch."""

    def __init__(self, classes, seed):
        self.samples, self.seed = np.flatnonzero(np.isin(SAMPLES.labels, list(classes))), seed

    def __len__(self):
        return len(self.samples)

    def __call__(self, epoch):
        return np.random.default_rng([self.seed, epoch]).permutation(self.samples)


def make(samples=SAMPLES, **options):
    defaults = {"batch_size": 8, "image_size": 16, "mean": MEAN, "std": STD}
    return Loader(samples, **(defaults | options))


def training(**options):
    sampler = ShuffledSampler(range(5), seed=3)
    return make(**({"sampler": sampler, "augment": Augment(), "seed": 1} | options))


def normalised(pixels):
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float64, as plainly as it can be said."""
    return ((pixels / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)


def pixels(images):
    """The inverse, exactly."""
    images = images.permute(0, 2, 3, 1).double().numpy() * np.array(STD) + np.array(MEAN)
    rounded = np.rint(images * 255)
    assert np.abs(images * 255 - rounded).max() < 1e-3
    return rounded.astype(np.uint8)


def same(some, others):
    some, others = list(some), list(others)
    if len(some) != len(others):
        return False
    pairs = zip(
        (part for x in some for part in x), (part for y in others for part in y), strict=True
    )
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs)
