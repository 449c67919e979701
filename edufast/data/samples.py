"""Data sets in memory: samples, splits, and what loaders need to know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edufast.utils.errors import UserError
from edufast.utils.instances import all_of, check_instance

if TYPE_CHECKING:
    from torch.utils.data import Dataset

Channels = tuple[float, float, float]
LARGEST_IMAGE = 4096  # pixels a side: far more than any training uses, and a slip takes no memory


def channels(name: str, values: Iterable[float]) -> Channels:
    """:func:`constants` of red, green and blue."""
    red, green, blue = constants(name, values, 3)
    return red, green, blue


def constants(name: str, values: Iterable[float], count: int) -> tuple[float, ...]:
    """Mean or deviation of pixel / 255, as a float for each of ``count`` channels.

    Args:
        name: "mean" or "std".

    Raises:
        ValueError: images have no such mean or deviation; the message names it.
    """
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        found = ()
    if name == "std":
        right, bound = all(0 < value < math.inf for value in found), " above 0"
    else:  # larger ones are of pixels from 0 to 255
        right, bound = all(-math.inf < value <= 1 for value in found), " up to 1"
    if len(found) != count or not right:
        raise ValueError(
            f"{name} is {values!r}; expected {count} finite numbers{bound}, one a channel, of "
            "pixel / 255"
        )
    return found


@dataclass(frozen=True)
class Samples:
    """One split: N images and their classes.

    Attributes:
        images: (N, H, W, 3) uint8, or N image files.
        labels: (N,) int64, positions in the data set's classes.

    Raises:
        TypeError, ValueError: images or labels have another type or shape.
    """

    images: NDArray[np.uint8] | tuple[Path, ...]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if isinstance(self.images, np.ndarray):
            if self.images.dtype != np.uint8 or self.images.shape[3:] != (3,):
                raise ValueError(
                    "images: expected a uint8 array (N, H, W, 3), got "
                    f"{self.images.dtype} {self.images.shape}"
                )
        elif not isinstance(self.images, tuple) or not all(
            isinstance(path, Path) for path in self.images
        ):
            raise TypeError("images: expected an array or a tuple of Paths")
        if len(self.images) != len(self.labels):
            raise ValueError(f"labels: expected {len(self.images)}, got {len(self.labels)}")
        if not isinstance(self.labels, np.ndarray) or self.labels.dtype != np.int64:
            found = getattr(self.labels, "dtype", type(self.labels).__name__)
            raise TypeError(f"labels: expected an array of int64, got {found}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: NDArray[np.int64]) -> Samples:
        """The samples at the positions ``index``, in that order."""
        if isinstance(self.images, np.ndarray):
            return Samples(self.images[index], self.labels[index])
        return Samples(tuple(self.images[i] for i in index), self.labels[index])


class Splits(NamedTuple):
    """What a reader returns: names of the classes, and two splits with images of any size."""

    classes: tuple[str, ...]
    train: Samples
    val: Samples


@dataclass(frozen=True)
class DataSet:
    """A classification data set in two splits.

    Attributes:
        name: its source, see :func:`edufast.data.load_dataset`.
        classes: names; labels are positions in it.
        image_size: height and width of a loader's images.
        mean: per channel, of pixel / 255, over at most 2,000 training images (256 files).
        std: per channel, of pixel / 255, over the same images; above 0.

    Raises:
        TypeError, ValueError: a split or a name is something else, a label is of no class, two
            classes have one name, or no images have this mean or deviation.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    image_size: int
    mean: Channels
    std: Channels

    def __post_init__(self) -> None:
        check_instance("name", self.name, str)
        object.__setattr__(self, "classes", all_of("classes", self.classes, str))
        for name, count in Counter(self.classes).items():
            if count > 1:
                raise ValueError(f"classes has {name!r} {count} times; expected each name once")
        for split in ("train", "val"):
            check_instance(split, getattr(self, split), Samples)
            self._check_labels(split, getattr(self, split).labels)
        for name in ("mean", "std"):
            object.__setattr__(self, name, channels(name, getattr(self, name)))

    def _check_labels(self, split: str, labels: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.classes)))
        if len(wrong):
            raise ValueError(
                f"{split} has the label {labels[wrong[0]]} at position {wrong[0]}; expected 0 to "
                f"{len(self.classes) - 1}, a position in classes"
            )

    def check_taught(self, classes: Iterable[int]) -> None:
        """Check that ``classes``, positions among the names, can be taught and validated.

        Raises:
            UserError: a split has no image of one of them.
        """
        for split, samples in (("train", self.train), ("val", self.val)):
            missing = np.setdiff1d(list(classes), samples.labels)
            if len(missing):
                raise UserError(
                    f"{split} of {self.name} has no image of class {missing[0]} "
                    f"({self.classes[missing[0]]}); expected some of every class that is taught"
                )

    def check_names(self, names: Mapping[int, str], whose: str) -> None:
        """Check that classes are called as they were when somebody learned them: where one was
        renamed since, most may have other positions.

        Args:
            names: of classes, by position.
            whose: who learned them, for messages.

        Raises:
            UserError: a class has another name, or none.
        """
        for position, name in names.items():
            found = self.classes[position] if position < len(self.classes) else None
            if found != name:
                raise UserError(
                    f"{whose} learned {name!r} as class {position}, which is {found!r} in "
                    f"{self.name} now; expected the same names in the same order"
                )

    @classmethod
    def from_torch(
        cls,
        train: Dataset[Any],
        val: Dataset[Any],
        *,
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        name: str = "torch",
    ) -> DataSet:
        """Of two data sets of PyTorch, whose images are read into memory once: without random
        augmentation and without normalisation, which a School does itself.

            data = edufast.DataSet.from_torch(CIFAR10(root), CIFAR10(root, train=False))

        Args:
            train, val: their items are an image and a label, see
                :func:`edufast.data.from_torch.arrays_of`.
            classes: names; None: those that ``train.classes`` has, else the labels' numbers.
            image_size: height and width to which images are resized; None: they are squares of one
                size.
            name: of the data set.

        Raises:
            UserError: an item is something else; images are no squares of one size; there are fewer
                than two classes, or fewer names than classes.
        """
        from edufast.data.from_torch import data_set

        return data_set(train, val, classes, image_size, name)
