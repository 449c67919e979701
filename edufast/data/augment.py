"""Random views of the images, drawn outside the pipeline so that anyone can draw them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edufast.data.rng import Stream, generator

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random resized crop, width over height, as torchvision


@dataclass(frozen=True)
class Augment:
    """What is random about a training image.

    Attributes:
        pad: pixels by which the image may move up, down, left or right; black moves in.
            Not used with ``random_resized_crop``.
        flip: mirror every second image, left to right. Wrong for text.
        random_resized_crop: (smallest, largest) share of the image's area to cut out and resize,
            such as (0.08, 1.0); for image files only. None: the whole image.
    """

    pad: int = 4
    flip: bool = True
    random_resized_crop: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad: expected 0 or more pixels, got {self.pad}")
        if self.random_resized_crop is not None:
            smallest, largest = self.random_resized_crop
            if not 0 < smallest <= largest <= 1:
                raise ValueError(
                    "random_resized_crop: expected 0 < smallest <= largest <= 1, "
                    f"got {self.random_resized_crop}"
                )


@dataclass(frozen=True)
class Views:
    """The parameters of a batch of B views.

    Attributes:
        shift: (B, 2) int32, (y, x) of the view's corner in the image, within [-pad, pad].
        flip: (B,) int32, 1 where the view is mirrored; it is cut out first.
        box: (B, 4) float32: area share, aspect ratio, and the (y, x) position in [0, 1) between
            the first and the last place a random resized crop can take.
    """

    shift: NDArray[np.int32]
    flip: NDArray[np.int32]
    box: NDArray[np.float32]


def draw_views(augment: Augment, batch: int, *, seed: int, epoch: int, iteration: int) -> Views:
    """The views of batch number ``iteration`` of ``epoch``. Switching one off moves no other."""
    rng = generator(seed, Stream.VIEWS, epoch, iteration)
    area, ratio, y, x = rng.random((4, batch))
    flip = rng.integers(0, 2, size=batch, dtype=np.int32)
    shift = rng.integers(-augment.pad, augment.pad + 1, size=(batch, 2), dtype=np.int32)
    smallest, largest = augment.random_resized_crop or (1.0, 1.0)
    area = smallest + area * (largest - smallest)
    ratio = np.exp(np.log(ASPECT_RATIOS[0]) + ratio * np.log(ASPECT_RATIOS[1] / ASPECT_RATIOS[0]))
    return Views(
        shift=shift,
        flip=flip if augment.flip else np.zeros_like(flip),
        box=np.stack([area, ratio, y, x], axis=1).astype(np.float32),
    )
