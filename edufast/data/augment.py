"""Random views of images, drawn outside the pipeline so that they can be reproduced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edufast.data.rng import Stream, generator, hashed
from edufast.ops.reference.augment import MAX_PAD
from edufast.utils.instances import check_instance
from edufast.utils.numbers import real_numbers, whole_number

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random resized crop, width over height, as torchvision


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images.

    Attributes:
        pad: maximum shift in pixels, up, down, left or right; the border is black. Not used with
            ``random_resized_crop``.
        flip: mirror an image left to right with probability 1/2. Wrong for text.
        random_resized_crop: (smallest, largest) share of the image's area to crop and resize, such
            as (0.08, 1.0); for image files only. None: the whole image.
        replay: limit each sample to this many views, which makes the views of any augmentation
            countable, see :attr:`views`. None: no limit.
    """

    pad: int = 4
    flip: bool = True
    random_resized_crop: tuple[float, float] | None = None
    replay: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad", whole_number("pad", self.pad, 0, MAX_PAD))
        check_instance("flip", self.flip, bool)
        if self.random_resized_crop is not None:
            shares = real_numbers("random_resized_crop", self.random_resized_crop)
            smallest, largest = shares if len(shares) == 2 else (0.0, 0.0)
            if not 0 < smallest <= largest <= 1:
                raise ValueError(
                    "random_resized_crop: expected 0 < smallest <= largest <= 1, "
                    f"got {self.random_resized_crop}"
                )
        if self.replay is not None:
            object.__setattr__(self, "replay", whole_number("replay", self.replay))

    @property
    def views(self) -> int | None:
        """Number of different views of a sample; None: not countable.

        Shifts and flips are countable: 162 for a pad of 4 and a flip. View v of a sample has the
        same pixels in every epoch of every training, so teacher outputs for it can be cached.
        """
        if self.replay is not None:
            return self.replay
        if self.random_resized_crop is not None:
            return None
        return self.shifts**2 * (2 if self.flip else 1)

    @property
    def shifts(self) -> int:
        """Number of positions along one axis."""
        return 2 * self.pad + 1


@dataclass(frozen=True)
class Views:
    """The parameters of a batch of B views.

    Attributes:
        numbers: (B,) int64 in [0, augment.views); None if views are not countable.
        shift: (B, 2) int32, (y, x) of the view's corner in the image, within [-pad, pad].
        flip: (B,) int32, 1 if the view is mirrored, after cropping.
        box: (B, 4) float32 of a random resized crop: share of the area, aspect ratio, and its
            (y, x) in [0, 1) between the first and the last possible position.
    """

    numbers: NDArray[np.int64] | None
    shift: NDArray[np.int32]
    flip: NDArray[np.int32]
    box: NDArray[np.float32]

    def __getitem__(self, rows: slice) -> Views:
        """The views of some rows of the batch."""
        numbers = None if self.numbers is None else self.numbers[rows]
        # Contiguous, as DALI requires.
        contiguous = np.ascontiguousarray
        shift, flip = contiguous(self.shift[rows]), contiguous(self.flip[rows])
        return Views(numbers, shift, flip, contiguous(self.box[rows]))


def draw_views(
    augment: Augment, samples: NDArray[np.int64], *, seed: int, epoch: int, iteration: int
) -> Views:
    """The views of ``samples`` (B,), batch number ``iteration`` of ``epoch``.

    If views are countable their numbers are drawn, otherwise their parameters. Switching off one
    kind of randomness does not change the others.
    """
    rng = generator(seed, Stream.VIEWS, epoch, iteration)
    if augment.views is None:
        return _views(augment, rng.random((7, len(samples))))
    numbers = (rng.random(len(samples)) * augment.views).astype(np.int64)
    return numbered_views(augment, samples, numbers)


def numbered_views(
    augment: Augment, samples: NDArray[np.int64], numbers: NDArray[np.int64]
) -> Views:
    """Views ``numbers`` (B,) of ``samples`` (B,): each depends on its number and, with
    ``augment.replay``, on its sample."""
    if augment.replay is not None:
        return _views(augment, hashed(7, samples, numbers), numbers)
    cell, flip = np.divmod(numbers, 2 if augment.flip else 1)
    shift = np.stack(np.divmod(cell, augment.shifts), axis=1) - augment.pad
    whole = np.tile(np.array([1, 1, 0, 0], dtype=np.float32), (len(numbers), 1))
    return Views(numbers, shift.astype(np.int32), flip.astype(np.int32), whole)


def shift_numbers(augment: Augment, views: Views) -> NDArray[np.int64]:
    """(B,) what the operator :func:`edufast.ops.augment` calls views: numbers of shift and flip.

    Without ``augment.replay``, those of :func:`numbered_views`.
    """
    y, x = (views.shift + augment.pad).astype(np.int64).T
    return (y * augment.shifts + x) * (2 if augment.flip else 1) + views.flip


def _views(
    augment: Augment, uniform: NDArray[np.float64], numbers: NDArray[np.int64] | None = None
) -> Views:
    """Views from uniform numbers (7, B) in [0, 1)."""
    area, ratio, y, x, flip = uniform[:5]
    smallest, largest = augment.random_resized_crop or (1.0, 1.0)
    area = smallest + area * (largest - smallest)
    ratio = np.exp(np.log(ASPECT_RATIOS[0]) + ratio * np.log(ASPECT_RATIOS[1] / ASPECT_RATIOS[0]))
    corner = np.stack([uniform[5], uniform[6]], axis=1)  # contiguous, as DALI requires
    return Views(
        numbers=numbers,
        shift=np.floor(corner * augment.shifts).astype(np.int32) - np.int32(augment.pad),
        flip=((flip < 0.5) & augment.flip).astype(np.int32),
        box=np.stack([area, ratio, y, x], axis=1).astype(np.float32),
    )
