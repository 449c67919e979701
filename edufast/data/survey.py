"""What ``edufast data`` finds out about a data set before anything is trained on it."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edufast.data.datasets import hold_out
from edufast.data.duplicates import Place, duplicates
from edufast.data.folder import folder_content
from edufast.data.image_files import unreadable_of
from edufast.data.image_size import sizes_to_decide, usual_size
from edufast.data.leave_out import leave_out as without_listed
from edufast.data.outline import OUTLINES
from edufast.data.samples import DataSet, Samples, Splits
from edufast.data.sources import parsed, read
from edufast.utils.extras import needed_for

_HEADERS = 1000  # files of which the size is looked at
_LAYOUTS = {
    "arrays": "arrays, as NumPy writes them",
    "manifest": "a table that lists pictures",
    "parquet": "Parquet files, which hold or list pictures",
    "hf": "a data set saved by Hugging Face's datasets",
    "webdataset": "tar shards, as of WebDataset",
}

Size = tuple[int, int]  # (width, height) in pixels


class Sizes(NamedTuple):
    """Of images as they are stored, by their number of pixels.

    Attributes:
        images: how many were looked at, evenly spaced.
    """

    smallest: Size
    median: Size
    largest: Size
    images: int


@dataclass(frozen=True)
class Survey:
    """What a run would see of a data set.

    Attributes:
        source: as a recipe's ``data.source``.
        layout: that was recognised, in words.
        classes: names.
        train, val: the two splits, with the files that cannot be decoded.
        image_size: height and width in pixels at which a recipe such as quickstart sees the images,
            unless it says otherwise.
        decided_sizes: those, ascending, of which a recipe that leaves decisions open, such as
            folder, has one, by the time that there is.
        sizes: of the images as they are stored; None: none could be looked at.
        left_out: how many entries in the folders of the classes are no images, by kind.
        unreadable: files that cannot be read or decoded, each once.
        duplicates: groups of images of the same content; those in ``unreadable`` are in none.
    """

    source: str
    layout: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    image_size: int
    decided_sizes: list[int]
    sizes: Sizes | None
    left_out: dict[str, int]
    unreadable: list[Path]
    duplicates: list[list[Place]]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Number of training and validation images of each class."""
        counts = (
            np.bincount(s.labels, minlength=len(self.classes)) for s in (self.train, self.val)
        )
        return {
            name: (int(train), int(val))
            for name, train, val in zip(self.classes, *counts, strict=True)
        }

    @property
    def imbalance(self) -> float:
        """Training images of the largest class for each one of the smallest."""
        counts = [train for train, _ in self.counts.values()]
        return max(counts) / min(counts)

    @property
    def copies(self) -> dict[str, int]:
        """How many images of a split repeat an earlier one of it, by split."""
        copies: Counter[str] = Counter(train=0, val=0)
        for group in self.duplicates:
            for split, count in Counter(place.split for place in group).items():
                copies[split] += count - 1
        return dict(copies)

    @property
    def leaked(self) -> int:
        """How many validation images are training images, too."""
        groups = ([place.split for place in group] for group in self.duplicates)
        return sum(splits.count("val") for splits in groups if "train" in splits)

    @property
    def contradictions(self) -> int:
        """How many groups of duplicates are in several classes."""
        return sum(len({place.label for place in group}) > 1 for group in self.duplicates)

    def to_dict(self) -> dict[str, Any]:
        """The survey as JSON types."""
        sizes = self.sizes and self.sizes._asdict()
        return {
            "source": self.source,
            "layout": self.layout,
            "image_size": self.image_size,
            "decided_sizes": self.decided_sizes,
            "train": len(self.train),
            "val": len(self.val),
            "classes": {
                name: {"train": train, "val": val} for name, (train, val) in self.counts.items()
            },
            "imbalance": self.imbalance,
            "sizes": sizes,
            "left_out": self.left_out,
            "unreadable": [str(path) for path in self.unreadable],
            "duplicates": {
                **self.copies,
                "val_in_train": self.leaked,
                "in_several_classes": self.contradictions,
                "groups": [[self._described(place) for place in g] for g in self.duplicates],
            },
        }

    def _described(self, place: Place) -> dict[str, Any]:
        image = str(place.image) if isinstance(place.image, Path) else place.image
        return {"split": place.split, "class": self.classes[place.label], "image": image}


@dataclass(frozen=True)
class Overview:
    """What can be told of a data set without decoding an image.

    Attributes:
        classes: number of classes.
        train: the training split, images of any size.
        side: median of the images' shorter side in pixels; None: no header could be read.
    """

    classes: int
    train: Samples
    side: int | None

    @property
    def counts(self) -> list[int]:
        """Number of training images of each class."""
        counts: list[int] = np.bincount(self.train.labels, minlength=self.classes).tolist()
        return counts

    @property
    def imbalance(self) -> float:
        """Training images of the largest class for each one of the smallest."""
        return max(self.counts) / min(self.counts)

    @property
    def files(self) -> bool:
        """Whether the images are files, not arrays."""
        return not isinstance(self.train.images, np.ndarray)


def overview(
    source: str, *, holdout: float = 0.0, seed: int = 0, leave_out: Path | None = None
) -> Overview:
    """Look at the training split of ``source`` as a run with these options reads it, quickly: files
    that cannot be decoded are not noticed, and count as the others do.

    Raises:
        UserError: as :func:`edufast.data.load_dataset`.
    """
    with needed_for(f"data source {source!r}", "train"):
        splits = hold_out(read(source, seed), holdout, seed)
    if leave_out is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run tells how many these are
            splits = without_listed(splits, leave_out, source)
    train = splits.train
    return Overview(len(splits.classes), train, _side(train))


def survey(source: str) -> Survey:
    """Look at the data set called ``source``, as a recipe with the default ``data.seed`` reads it.

    Every image file is decoded once; the sizes come from headers.

    Args:
        source: as :func:`edufast.data.load_dataset`.

    Raises:
        UserError: as :func:`edufast.data.load_dataset`; but files that cannot be decoded are told
            in the result.
    """
    with needed_for(f"data source {source!r}", "train"):
        layout, found, left_out = _read(source)
        splits = {"train": found.train, "val": found.val}
        unreadable = unreadable_of(*splits.values())
        return Survey(
            source=source,
            layout=layout,
            classes=tuple(found.classes),
            train=found.train,
            val=found.val,
            image_size=usual_size(source, found),
            decided_sizes=sizes_to_decide(_side(found.train)),
            sizes=_sizes([image for samples in splits.values() for image in samples.images]),
            left_out=left_out,
            unreadable=unreadable,
            duplicates=duplicates(splits, set(unreadable)),
        )


def _read(source: str) -> tuple[str, Splits | DataSet, dict[str, int]]:
    """Layout, data and what was left out."""
    name, path = parsed(source)
    if name is None:
        assert path is not None
        layout, splits, left_out = folder_content(path)
        return layout, splits, dict(left_out)
    known = OUTLINES.get(name)
    layout = f"{name}, {known.source}" if known else _LAYOUTS.get(name, f"what {name} reads")
    return layout, read(source, 0), {}


def _sizes(images: list[Any]) -> Sizes | None:
    """Of files or arrays."""
    sizes = _looked_at(images)
    if not sizes:
        return None
    sizes.sort(key=lambda size: (size[0] * size[1], size))
    return Sizes(sizes[0], sizes[len(sizes) // 2], sizes[-1], len(sizes))


def _side(samples: Samples) -> int | None:
    """Median of the images' shorter side; None: no header could be read."""
    sides = sorted(min(size) for size in _looked_at(samples.images))
    return sides[len(sides) // 2] if sides else None


def _looked_at(images: Any) -> list[Size]:
    """Sizes of some of ``images``, evenly spaced; those without one are left out."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), _HEADERS)).astype(int)
    return [size for i in chosen if (size := _size(images[i])) is not None]


def _size(image: Any) -> Size | None:
    """From a file's header, or of an array; None: the file has none."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    try:
        with Image.open(image) as opened:
            return opened.size
    except Exception:  # damaged headers fail in any way
        return None
