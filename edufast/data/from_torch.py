"""Data sets of PyTorch, read into memory once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edufast.data.centre_crop import CentreCrop
from edufast.data.datasets import pixel_statistics
from edufast.data.folder import check_class_name
from edufast.data.pictures import eight_bits
from edufast.data.samples import LARGEST_IMAGE, DataSet, Samples
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.numbers import whole_number
from edufast.utils.progress import counting
from edufast.utils.registry import call_user


def data_set(
    train: Dataset[Any],
    val: Dataset[Any],
    classes: Sequence[str] | None,
    image_size: int | None,
    name: str,
) -> DataSet:
    """See :meth:`edufast.data.DataSet.from_torch`."""
    if image_size is not None:
        image_size = whole_number("image_size", image_size, most=LARGEST_IMAGE)
    given = getattr(train, "classes", None) if classes is None else classes
    names = None if given is None else class_names(given)
    found = {
        "train": arrays_of(train, "train", image_size),
        "val": arrays_of(val, "val", image_size),
    }
    size = image_size or max(found["train"][0].shape[1:3])
    for split, (images, _) in found.items():
        if images.shape[1:3] != (size, size):
            raise UserError(
                f"{split} has images of {images.shape[1:3]}; expected squares of the same size as "
                "in train, or image_size, to which all are resized"
            )
    splits = Samples(*found["train"]), Samples(*found["val"])
    count = int(max(samples.labels.max() for samples in splits)) + 1
    known = count if names is None else len(names)
    if known < max(count, 2):
        raise UserError(f"classes names {known} classes; the labels have {count}, at least 2")
    present = np.unique(splits[0].labels)
    if len(present) < known:  # a label may be any number: nothing is as long as the largest
        gaps = np.flatnonzero(present != np.arange(len(present)))
        absent = int(gaps[0]) if len(gaps) else len(present)
        raise UserError(f"train has no image of class {names[absent] if names else str(absent)!r}")
    names = names or tuple(str(c) for c in range(count))
    mean, std = pixel_statistics(splits[0], size)
    return DataSet(name, names, *splits, size, mean, std)


def class_names(given: Any) -> tuple[str, ...]:
    """The names of the classes, in the order of their labels.

    Raises:
        UserError: they are no sequence, or one cannot be printed.
    """
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    if not listed and not (isinstance(given, np.ndarray) and given.ndim == 1):
        raise UserError(
            f"classes is of type {type(given).__name__}; expected a sequence of names, in the "
            "order of the labels"
        )
    names = tuple(map(str, given))
    for name in names:
        check_class_name("classes", name)
    return names


def arrays_of(
    dataset: Dataset[Any], split: str, image_size: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images (N, H, W, 3) and labels (N,) of all items of ``dataset``, which are pairs of them.

    Args:
        dataset: its images are PIL images, uint8 arrays (H, W, 3), uint8 tensors (3, H, W), or
            tensors of floats from 0 to 1 of that shape.
        split: its name, in messages.
        image_size: height and width to which images are cut and resized as in validation; None:
            they are alike, and stay as they are.

    Raises:
        UserError: there is none, an item is something else, or they differ in size.
    """
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(
            f"{split} is of type {type(dataset).__name__}, which has no length; expected a data "
            "set of items by number"
        ) from error
    if not count:
        raise UserError(f"{split}: the data set has no items")
    view = None if image_size is None else CentreCrop.to(image_size, image_size)
    images: list[NDArray[np.uint8]] = []
    labels = []
    with counting(f"reading {split}", count) as advance:
        for i in range(count):
            where = f"{split}[{i}]"
            item = call_user(where, operator.getitem, dataset, i)
            if not isinstance(item, Sequence) or len(item) < 2:
                raise UserError(f"{where} is a {type(item).__name__}; expected (image, label)")
            image = _pixels(where, item[0])
            if view is not None and image.shape[:2] != view.crop:
                with needed_for("resizing images", "train"):
                    from PIL import Image
                image = view(Image.fromarray(image))
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"{where} is {image.shape[:2]}, the images before are {images[0].shape[:2]}; "
                    "expected image_size, to which all are resized"
                )
            images.append(image)
            labels.append(_label(where, item[1]))
            advance(1)
    return np.stack(images), np.array(labels, np.int64)


def _pixels(where: str, image: Any) -> NDArray[np.uint8]:
    """As (H, W, 3)."""
    if callable(getattr(image, "convert", None)):  # Pillow's
        if image.mode == "F":
            _check_range(where, *image.getextrema())
        return np.asarray(eight_bits(image))
    dense = isinstance(image, Tensor) and image.layout == torch.strided and not image.is_meta
    if dense and image.dim() == 3 and image.numel() and image.is_floating_point():
        _check_range(where, image.min().item(), image.max().item())
        image = (image * 255).round().byte()
    if dense and image.dim() == 3:
        image = image.movedim(0, -1).cpu().numpy()
    found = getattr(image, "dtype", None), getattr(image, "shape", None)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.size:
        if image.shape[2] == 1:
            image = image.repeat(3, 2)
        if image.shape[2] == 3:
            return image
    what = f"{type(image).__name__} {found[0]} {found[1]}" if found[0] else type(image).__name__
    if isinstance(image, Tensor) and not dense:
        what += f" ({image.layout} on {image.device})"
    raise UserError(
        f"{where} is a {what}; expected a PIL image, a uint8 array (H, W, 3), or a tensor "
        "(3, H, W) of uint8 or of floats from 0 to 1"
    )


def _check_range(where: str, low: float, high: float) -> None:
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"{where} has values from {low:.3g} to {high:.3g}; expected 0 to 1: a School "
            "normalises and augments images itself"
        )


def _label(where: str, label: Any) -> int:
    try:
        number = int(label)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # of NaN, infinity, two numbers
        number = -1
    if not 0 <= number < 2**63 or number != label:
        raise UserError(f"{where} has the label {label!r}; expected an integer from 0")
    return number
