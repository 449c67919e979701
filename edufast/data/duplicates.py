"""Images that are in a data set more than once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edufast.data.samples import Samples
from edufast.utils.progress import counting


class Place(NamedTuple):
    """Where an image is in a data set."""

    split: str
    label: int  # position of its class in the data set's classes
    image: Path | int  # its file, or its position in the split's array


def duplicates(splits: Mapping[str, Samples], without: Container[Path] = ()) -> list[list[Place]]:
    """Groups of two and more images of the same content: files byte by byte, arrays pixel by pixel.

    Args:
        splits: by name.
        without: files that are not looked at.
    """
    images = [
        (image, Place(name, int(label), image if isinstance(image, Path) else number))
        for name, samples in splits.items()
        for number, (image, label) in enumerate(zip(samples.images, samples.labels, strict=True))
        if not isinstance(image, Path) or image not in without
    ]
    sizes = [_size(image) for image, _ in images]
    often = Counter(sizes)
    candidates = [found for found, size in zip(images, sizes, strict=True) if often[size] > 1]
    groups: dict[bytes, list[Place]] = defaultdict(list)
    with counting("comparing images", len(candidates)) as advance:
        for image, place in candidates:
            groups[_digest(image)].append(place)
            advance(1)
    return [group for group in groups.values() if len(group) > 1]


def _size(image: Path | NDArray[np.uint8]) -> tuple[int, ...]:
    """What images of the same content have in common."""
    return (image.stat().st_size,) if isinstance(image, Path) else image.shape


def _digest(image: Path | NDArray[np.uint8]) -> bytes:
    content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
    return hashlib.blake2b(content, digest_size=32).digest()
