"""Loading a data set from any source: held-out split, image size, statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from edufast.data.centre_crop import CentreCrop
from edufast.data.image_files import naming_unreadable, without_unreadable
from edufast.data.image_size import usual_size
from edufast.data.leave_out import leave_out as without_listed
from edufast.data.outline import held_out
from edufast.data.pictures import read_picture
from edufast.data.reduced import reduced
from edufast.data.rng import Stream, generator
from edufast.data.samples import LARGEST_IMAGE, Channels, DataSet, Samples, Splits
from edufast.data.sources import read
from edufast.utils.choices import OnError
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.instances import check_choice, check_instance
from edufast.utils.numbers import whole_number

_MIN_STD = 1e-3  # of a constant channel, since images are divided by it


def load_dataset(
    source: str | Path,
    *,
    image_size: int | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    on_error: OnError = "stop",
    reduce_to: int | None = None,
    leave_out: Path | None = None,
) -> DataSet:
    """The data set called ``source``.

    Args:
        source: ``"digits"`` (scikit-learn's 1,797 handwritten digits, 10 classes), ``"glyphs"``
            (60 rendered characters); ``"<name>:<folder>"`` for ``cifar10``, ``cifar100``,
            ``tiny_imagenet``, ``caltech256`` or ``food101`` as published, unpacked in or into the
            folder; ``"arrays:<folder>"`` for ``train.npz`` and ``test.npz``, or ``.npy`` files, see
            :mod:`edufast.data.arrays`; ``"manifest:<file>"`` for a CSV file that lists pictures and
            their classes, see :mod:`edufast.data.manifest`; ``"parquet:<path>"`` for Parquet files
            that hold or list pictures, see :mod:`edufast.data.parquet`; ``"hf:<folder>"`` for what
            ``save_to_disk`` of Hugging Face's datasets wrote; ``"webdataset:<path>"`` for tar
            shards, see :mod:`edufast.data.webdataset`; or a folder of your own:
            ``<folder>/train/<class>/*`` with ``<folder>/val/<class>/*`` (also ``valid``,
            ``validation`` or ``test``), or ``<folder>/<class>/*``, of which about a fifth of each
            class becomes the validation split, chosen by file name, so that adding files does not
            move the others. The reader may be left out where a path is recognised: ``.csv``,
            ``.parquet``, ``.tar`` and ``.tar.gz`` files, folders of shards, and saved data sets. Or
            a function of your own, see :mod:`edufast.data.sources`: ``"<reader>"`` or
            ``"<reader>:<path>"``, where the reader is a registered name, an import path such as
            ``mypackage.data:pets``, or an entry point of the group ``edufast.data_sets``.
        image_size: height and width in pixels; None: 64 for Tiny ImageNet, 224 for image files, the
            longer side of your own arrays, and 32 for the others.
        holdout: share of each class's training images, in [0, 1), that replaces the validation
            split, which is then not used at all: compare variants on this one. 0: none.
        seed: of everything that is not official: which images are held out, which ones glyphs
            renders, and how digits, Caltech-256 and folders without a validation split are split.
        on_error: what to do about image files that cannot be read or decoded. "stop": the first one
            ends the run with an error that names them all. "skip": all files are decoded
            beforehand, and the bad ones are left out; a warning counts them. The others stay in
            the split that they would have been in.
        reduce_to: image files with more pixels at their shorter side are read from copies that have
            as many, see :func:`edufast.data.reduced.reduced`; decoding large files takes longer
            than learning from them. None: files are read as they are.
        leave_out: a list of image files to be left out, such as ``edufast data --fix-list`` writes;
            the others stay in the split that they would have been in.

    Raises:
        UserError: no such data set or folder, a missing or damaged file, fewer than two classes, a
            class without images, a class in validation only, an unreadable image, an argument out
            of range, a class too small for the holdout, a missing package that the data set needs,
            or a reader of your own that fails or returns something else.
    """
    check_instance("source", source, str, Path)
    source = str(source)
    if image_size is not None:
        image_size = whole_number("image_size", image_size, least=-(2**63), most=LARGEST_IMAGE)
        if image_size < 8:
            raise UserError(f"image_size: expected at least 8 pixels, got {image_size}")
    check_instance("holdout", holdout, float, int, np.floating)
    if not 0 <= holdout < 1:
        raise UserError(f"holdout: expected a share in [0, 1), got {holdout}")
    seed = whole_number("seed", seed, least=-(2**63))
    if seed < 0:
        raise UserError(f"seed: expected at least 0, got {seed}")
    check_choice("on_error", on_error, get_args(OnError))
    if reduce_to is not None:
        reduce_to = whole_number("reduce_to", reduce_to)
    if leave_out is not None:
        check_instance("leave_out", leave_out, str, Path)
        leave_out = Path(leave_out)
    with needed_for(f"data source {source!r}", "train"):
        found = read(source, seed)
        splits = hold_out(found, holdout, seed)
        if not len(splits.val):
            raise UserError(f"data source {source!r}: val is empty; expected a holdout above 0")
        if leave_out is not None:
            splits = without_listed(splits, leave_out, source)
        if on_error == "skip":
            splits = without_unreadable(splits, source)
        size = image_size or usual_size(source, found)
        if reduce_to is not None:
            if reduce_to < size:
                raise UserError(f"reduce_to: expected at least image_size, {size}, got {reduce_to}")
            train, val = (reduced(samples, reduce_to) for samples in (splits.train, splits.val))
            splits = splits._replace(train=train, val=val)
        whole = CentreCrop((size, size), (size, size))
        train = _resized(splits.train, whole)
        val = _resized(splits.val, CentreCrop.to(size, size))
        if isinstance(found, DataSet):
            mean, std = found.mean, found.std
        else:
            with naming_unreadable(train, val):
                mean, std = pixel_statistics(train, size)
        return DataSet(source, splits.classes, train, val, size, mean, std)


def hold_out(found: Splits | DataSet, share: float, seed: int) -> Splits:
    """The splits of ``found``; above 0, ``share`` of each class's training images, at least one, is
    the validation split.

    Raises:
        UserError: a class has a single training image.
    """
    classes = tuple(found.classes)
    if not share:
        return Splits(classes, found.train, found.val)
    labels = found.train.labels
    is_val = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(f"holdout: class {name!r} has one training image; expected 2 to split")
        count = held_out(len(members), share)
        is_val[generator(seed, Stream.HOLDOUT, label).permutation(members)[:count]] = True
    train, val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
    return Splits(classes, found.train.subset(train), found.train.subset(val))


def _resized(samples: Samples, view: CentreCrop) -> Samples:
    """Arrays as ``view`` shows them; files are resized when they are read."""
    images = samples.images
    if not isinstance(images, np.ndarray) or images.shape[1:3] == view.cover == view.crop:
        return samples
    from PIL import Image

    shape = (len(images), *view.crop, 3)
    try:
        resized = np.empty(shape, np.uint8)
    except MemoryError as error:
        raise UserError(
            f"image_size: {len(images)} images of {view.crop[0]} x {view.crop[1]} pixels take "
            f"{math.prod(shape) / 1e9:.0f} GB of memory, more than there is"
        ) from error
    for image, large in zip(resized, images, strict=True):
        image[:] = view(Image.fromarray(large))
    return Samples(resized, samples.labels)


def pixel_statistics(train: Samples, size: int) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel of pixel / 255, over evenly spaced samples."""
    images = train.images
    if isinstance(images, np.ndarray):
        pixels = images[_spaced(len(images), 2000)]
    else:
        pixels = np.stack([_small(images[i], size) for i in _spaced(len(images), 256)])
    red, green, blue = pixels.reshape(-1, 3).astype(np.float64).T / 255
    mean = red.mean().item(), green.mean().item(), blue.mean().item()
    std = red.std().item(), green.std().item(), blue.std().item()
    return mean, (max(std[0], _MIN_STD), max(std[1], _MIN_STD), max(std[2], _MIN_STD))


def _spaced(length: int, most: int) -> NDArray[np.int64]:
    return np.linspace(0, length - 1, min(length, most)).astype(np.int64)


def _small(path: Path, size: int) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    return np.asarray(read_picture(path, draft=size).resize((size, size), Resampling.BILINEAR))
