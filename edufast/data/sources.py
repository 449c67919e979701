"""Data sources: what ``data.source`` in a recipe names, and reading it.

A source is ``<reader>`` or ``<reader>:<path>``, a folder of images, or a path whose reader is
recognised. A reader is a function ``read(path, seed)``, or ``read(seed)`` if it needs no path, that
returns one of:

* :class:`~edufast.data.samples.Splits`: the names of the classes, and two splits of images, as
  arrays of any size or as files; each class has images in the training split.
  :func:`edufast.data.load_dataset` holds out a part, resizes, and computes mean and standard
  deviation of the pixels.
* :class:`~edufast.data.samples.DataSet`: the same with its own default image size, mean and
  standard deviation. Its name is replaced by the source.

``path`` is a :class:`pathlib.Path` that exists. ``seed`` comes from the section ``data`` of the
recipe. Anything random, such as a split, must depend on it only, since each process reads the data
again.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edufast.data.arrays import arrays
from edufast.data.caltech256 import caltech256
from edufast.data.cifar import cifar10, cifar100
from edufast.data.digits import digits
from edufast.data.folder import folder
from edufast.data.food101 import food101
from edufast.data.glyphs import glyphs
from edufast.data.hf import hf, is_saved
from edufast.data.manifest import manifest
from edufast.data.outline import OUTLINES
from edufast.data.parquet import parquet
from edufast.data.samples import DataSet, Samples, Splits
from edufast.data.shards import has_shards
from edufast.data.tiny_imagenet import tiny_imagenet
from edufast.data.webdataset import SUFFIXES as TAR_SUFFIXES
from edufast.data.webdataset import webdataset
from edufast.utils.errors import UserError
from edufast.utils.registry import Registry, is_import_path

Reader: TypeAlias = Callable[..., "Splits | DataSet"]

DATA_SETS: Registry[Reader] = Registry(
    "data source",
    "edufast.data_sets",
    (Splits, DataSet),
    {
        "digits": digits,
        "glyphs": glyphs,
        "arrays": arrays,
        "manifest": manifest,
        "parquet": parquet,
        "hf": hf,
        "webdataset": webdataset,
        "caltech256": caltech256,
        "cifar10": cifar10,
        "cifar100": cifar100,
        "food101": food101,
        "tiny_imagenet": tiny_imagenet,
    },
    also="an existing folder, a .csv, .parquet, .tar or .tar.gz file",
)
_SHARDS = {"parquet": (".parquet",), "webdataset": TAR_SUFFIXES}
_BY_SUFFIX = {"manifest": (".csv",), **_SHARDS}

register_data_set = DATA_SETS.register


def read(source: str, seed: int) -> Splits | DataSet:
    """What the reader of ``source`` returns, checked.

    Raises:
        UserError: there is no such reader or path, or the reader fails or returns something else.
        ImportError: a data set of this package needs another package, which is missing.
    """
    name, path = parsed(source)
    if name is None:
        assert path is not None
        return folder(path, seed)
    reader = DATA_SETS.find(name)
    published = f", what is at {OUTLINES[name].source}, unpacked" if name in OUTLINES else ""
    if path is None and _reads_path(reader):
        raise UserError(f"data source {source!r}: expected {name}:<path>{published}")
    if path is not None and not _reads_path(reader):
        raise UserError(f"data source {source!r}: {name} reads no path; expected {name!r}")
    if path is not None and not path.exists():
        raise UserError(
            f"data source {source!r}: {str(path)!r} does not exist; expected a path{published}"
        )
    arguments = () if path is None else (path,)
    if name in OUTLINES:  # of this package: its errors need no context, its result no check
        return reader(*arguments, seed=seed)
    found = DATA_SETS.call(name, *arguments, seed=seed)
    _check(f"data source {source!r}", found)
    return found


def absolute_source(source: str) -> str:
    """``source`` with its path, if it has one, made absolute."""
    name, path = parsed(source)
    if path is None:
        return source
    return str(path.absolute()) if name is None else f"{name}:{path.absolute()}"


def runs_code(source: str) -> bool:
    """Whether reading ``source`` runs code that it names by an import path."""
    name, _ = parsed(source)
    return name is not None and is_import_path(name)


def parsed(source: str) -> tuple[str | None, Path | None]:
    """The name of the reader, None if ``source`` is a folder of images, and the path. Names take
    precedence over paths, and paths over import paths. A path may begin with ``~/``."""
    source = os.path.expanduser(source)
    name, colon, rest = source.partition(":")
    if name not in DATA_SETS:
        if os.path.isdir(source):  # unlike Path.is_dir, False for a name that is too long
            return _recognised(Path(source)), Path(source)
        matching = (reader for reader, ends in _BY_SUFFIX.items() if source.lower().endswith(ends))
        by_suffix = next(matching, None)
        if by_suffix and (os.path.isfile(source) or not colon):
            return by_suffix, Path(source)
        attribute, second, further = rest.partition(":")
        if is_import_path(f"{name}:{attribute}"):
            name, colon, rest = f"{name}:{attribute}", second, further
    return name, Path(os.path.expanduser(rest)) if colon else None


def _recognised(folder: Path) -> str | None:
    """The reader of what is in ``folder``; None: images, or nothing that is known."""
    if is_saved(folder):
        return "hf"
    return next((reader for reader, ends in _SHARDS.items() if has_shards(folder, *ends)), None)


def _reads_path(reader: Reader) -> bool:
    try:
        return next(iter(inspect.signature(reader).parameters), "seed") != "seed"
    except ValueError:  # some functions written in C have no signature
        return True


def _check(what: str, found: Splits | DataSet) -> None:
    """Check what a user's reader returned.

    Raises:
        UserError: it has fewer than two classes, a label outside of them, or a class without
            training images.
    """
    classes = found.classes
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{what}: classes is {classes!r}; expected the names of at least 2")
    for split, samples in (("train", found.train), ("val", found.val)):
        if not isinstance(samples, Samples):
            raise UserError(f"{what}: {split} has type {type(samples).__name__}; expected Samples")
        outside = samples.labels[(samples.labels < 0) | (samples.labels >= len(classes))]
        if len(outside):
            raise UserError(
                f"{what}: {split} has label {outside[0]}; expected 0 to {len(classes) - 1}, "
                "positions in classes"
            )
    counts = np.bincount(found.train.labels, minlength=len(classes))
    if not counts.all():
        raise UserError(f"{what}: class {classes[counts.argmin()]!r} has no training image")
