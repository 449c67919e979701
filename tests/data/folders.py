"""Folders of images, and which images a split has."""

from __future__ import annotations

import numpy as np
from PIL import Image


def make_images(folder, count, first=0, colour=(10, 20, 30), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (12, 10), colour).save(folder / f"{number:03}.{suffix}")


def make_pictures(folder, count, suffix="png"):
    """Of noise, so that each is a picture of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(count).integers(0, 256, (count, 10, 12, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number:03}.{suffix}")


def names(samples):
    return {f"{path.parent.name}/{path.name}" for path in samples.images}


def images_of(samples):
    return {image.tobytes() for image in samples.images}
