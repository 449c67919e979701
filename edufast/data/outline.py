"""Sizes of known data sets, for estimates without their images."""

from __future__ import annotations

from typing import NamedTuple

PHOTOGRAPH = 224  # height and width of images that have no size of their own


class Outline(NamedTuple):
    """What is known of a data set without reading it.

    Attributes:
        train: number of training images of each class.
        image_size: default height and width.
        source: where to get it.
    """

    train: tuple[int, ...]
    image_size: int
    source: str


OUTLINES = {
    "digits": Outline(
        (143, 146, 142, 147, 145, 146, 145, 144, 140, 144), 32, "comes with scikit-learn"
    ),
    "glyphs": Outline((100,) * 60, 32, "rendered with the fonts of matplotlib"),
    "cifar10": Outline((5000,) * 10, 32, "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar100": Outline((500,) * 100, 32, "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "tiny_imagenet": Outline((500,) * 200, 64, "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    "caltech256": Outline((60,) * 256, PHOTOGRAPH, "https://data.caltech.edu/records/nyy15-4j048"),
    "food101": Outline(
        (750,) * 101, PHOTOGRAPH, "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
    ),
}


def outline(source: str) -> Outline | None:
    """The outline of ``source``, an argument of :func:`edufast.data.load_dataset`, if known."""
    return OUTLINES.get(source.partition(":")[0])


def held_out(count: int, share: float) -> int:
    """How many of a class's ``count`` training images are held out: at least one, not all."""
    return min(max(round(share * count), 1), count - 1)
