"""Random views of the images, drawn outside the pipeline so that anyone can draw them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edufast.data.rng import Stream, generator, hashed

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
        replay: show only this many views of each sample, which makes the views of any augmentation
            countable: see :attr:`views`. None: any.
    """

    pad: int = 4
    flip: bool = True
    random_resized_crop: tuple[float, float] | None = None
    replay: int | None = None

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
        if self.replay is not None and self.replay < 1:
            raise ValueError(f"replay: expected at least 1 view of a sample, got {self.replay}")

    @property
    def views(self) -> int | None:
        """How many different views of a sample there are; None: too many to count.

        Shifts and flips can be counted: 162 for a pad of 4 and a flip. View v of a sample shows the
        same pixels in every epoch of every training, so what is known about it can be kept.
        """
        if self.replay is not None:
            return self.replay
        if self.random_resized_crop is not None:
            return None
        return self.shifts**2 * (2 if self.flip else 1)

    @property
    def shifts(self) -> int:
        """Places the image can be moved to along one axis."""
        return 2 * self.pad + 1


@dataclass(frozen=True)
class Views:
    """The parameters of a batch of B views.

    Attributes:
        numbers: (B,) int64 in [0, augment.views); None where views cannot be counted.
        shift: (B, 2) int32, (y, x) of the view's corner in the image, within [-pad, pad].
        flip: (B,) int32, 1 where the view is mirrored; it is cut out first.
        box: (B, 4) float32: area share, aspect ratio, and the (y, x) position in [0, 1) between
            the first and the last place a random resized crop can take.
    """

    numbers: NDArray[np.int64] | None
    shift: NDArray[np.int32]
    flip: NDArray[np.int32]
    box: NDArray[np.float32]


def draw_views(
    augment: Augment, samples: NDArray[np.int64], *, seed: int, epoch: int, iteration: int
) -> Views:
    """The views of batch number ``iteration`` of ``epoch``, which holds ``samples`` (B,).

    Where views can be counted their numbers are drawn, else their parameters. Switching one kind of
    randomness off moves no other.
    """
    rng = generator(seed, Stream.VIEWS, epoch, iteration)
    if augment.views is None:
        return _views(augment, rng.random((7, len(samples))))
    numbers = (rng.random(len(samples)) * augment.views).astype(np.int64)
    return numbered_views(augment, samples, numbers)


def numbered_views(
    augment: Augment, samples: NDArray[np.int64], numbers: NDArray[np.int64]
) -> Views:
    """Views ``numbers`` (B,) of ``samples`` (B,), each a function of its number, with
    ``augment.replay`` of its sample and its number."""
    if augment.replay is not None:
        return _views(augment, hashed(7, samples, numbers), numbers)
    cell, flip = np.divmod(numbers, 2 if augment.flip else 1)
    shift = np.stack(np.divmod(cell, augment.shifts), axis=1) - augment.pad
    whole = np.tile(np.array([1, 1, 0, 0], dtype=np.float32), (len(numbers), 1))
    return Views(numbers, shift.astype(np.int32), flip.astype(np.int32), whole)


def _views(
    augment: Augment, uniform: NDArray[np.float64], numbers: NDArray[np.int64] | None = None
) -> Views:
    """Views from uniform numbers (7, B) in [0, 1)."""
    area, ratio, y, x, flip = uniform[:5]
    smallest, largest = augment.random_resized_crop or (1.0, 1.0)
    area = smallest + area * (largest - smallest)
    ratio = np.exp(np.log(ASPECT_RATIOS[0]) + ratio * np.log(ASPECT_RATIOS[1] / ASPECT_RATIOS[0]))
    corner = np.stack([uniform[5], uniform[6]], axis=1)  # DALI takes no transposed arrays
    return Views(
        numbers=numbers,
        shift=np.floor(corner * augment.shifts).astype(np.int32) - np.int32(augment.pad),
        flip=((flip < 0.5) & augment.flip).astype(np.int32),
        box=np.stack([area, ratio, y, x], axis=1).astype(np.float32),
    )
