"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as published, in binary or pickled layout.

cifar-100-binary/{train,test}.bin, fine_label_names.txt
cifar-100-python/{train,test,meta}
cifar-10-batches-bin/{data_batch_1 to 5,test_batch}.bin, batches.meta.txt
cifar-10-batches-py/{data_batch_1 to 5,test_batch,batches.meta}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edufast.data.layout import read_lines
from edufast.data.pickled import PickledArray, unpickle
from edufast.data.samples import Samples, Splits
from edufast.utils.errors import UserError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """One published archive."""

    folder: str
    archive: str
    classes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int = 0  # before the pixels of a record; the last is the label. 0: pickles
    labels_key: bytes = b""
    names_key: bytes = b""


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR100 = (
    _Layout(
        "cifar-100-binary", "cifar-100-binary.tar.gz", 100,
        ("train.bin",), ("test.bin",), "fine_label_names.txt", label_bytes=2,
    ),
    _Layout(
        "cifar-100-python", "cifar-100-python.tar.gz", 100,
        ("train",), ("test",), "meta", labels_key=b"fine_labels", names_key=b"fine_label_names",
    ),
)  # fmt: skip
_CIFAR10 = (
    _Layout(
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz", 10,
        tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), "batches.meta.txt",
        label_bytes=1,
    ),
    _Layout(
        "cifar-10-batches-py", "cifar-10-python.tar.gz", 10,
        _BATCHES, ("test_batch",), "batches.meta", labels_key=b"labels", names_key=b"label_names",
    ),
)  # fmt: skip


def cifar100(given: Path, seed: int = 0) -> Splits:
    """The official splits with the 100 fine classes in the official order; ``seed`` is not used.

    Args:
        given: the folder of either layout, or its parent; the binary layout is preferred.

    Raises:
        UserError: a file is missing or damaged, or a pickle contains more than plain arrays.
    """
    return _read(given, _CIFAR100)


def cifar10(given: Path, seed: int = 0) -> Splits:
    """The same for the ten classes of CIFAR-10."""
    return _read(given, _CIFAR10)


def _read(given: Path, layouts: Sequence[_Layout]) -> Splits:
    for layout in layouts:
        for folder in (given, given / layout.folder):
            if (folder / layout.train[0]).is_file():
                names = _class_names(folder / layout.names, layout)
                train = _split(folder, layout.train, layout)
                return Splits(names, train, _split(folder, layout.test, layout))
    expected = " or ".join(f"{layout.train[0]} of {layout.archive}" for layout in layouts)
    raise UserError(f"{given}: holds no data; expected {expected}, unpacked")


def _class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    if layout.label_bytes:
        names = [line.strip() for line in read_lines(path, layout.archive)]
    else:
        found = _listed(_unpickled(path, layout), layout.names_key, bytes, path, layout)
        names = [name.decode("utf-8", "replace") for name in found]
    if len(names) != layout.classes:
        raise UserError(f"{path}: names {len(names)} classes; expected {layout.classes}")
    return tuple(names)


def _split(folder: Path, files: Sequence[str], layout: _Layout) -> Samples:
    read = _records if layout.label_bytes else _pickled_batch
    parts = [read(folder / name, layout) for name in files]
    rows = np.concatenate([rows for rows, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    if labels.min() < 0 or labels.max() >= layout.classes:
        raise UserError(
            f"{folder}: {', '.join(files)}: labels from {labels.min()} to {labels.max()}; expected "
            f"0 to {layout.classes - 1}"
        )
    # Samples are stored in random order: a truncated file has unequal numbers per class.
    counts = np.bincount(labels, minlength=layout.classes)
    if counts.min() != counts.max():
        raise UserError(
            f"{folder}: {', '.join(files)}: {counts.min()} to {counts.max()} images of a class; "
            f"expected as many of each, as in {layout.archive}"
        )
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Samples(np.ascontiguousarray(images), labels)


def _records(path: Path, layout: _Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows (N, 3072) of red, green and blue planes, and labels (N,), of one binary file."""
    content = np.frombuffer(_content(path, layout), dtype=np.uint8)
    size = layout.label_bytes + _PIXELS
    if len(content) == 0 or len(content) % size:
        raise UserError(
            f"{path}: has {len(content)} bytes; expected a multiple of {size}, as in "
            f"{layout.archive}"
        )
    records = content.reshape(-1, size)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    return records[:, layout.label_bytes :], labels


def _pickled_batch(path: Path, layout: _Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same from a pickle."""
    batch = _unpickled(path, layout)
    labels = _listed(batch, layout.labels_key, int, path, layout)
    data = batch.get(b"data")
    if not isinstance(data, PickledArray):
        raise UserError(f"{path}: has no array 'data'; expected that of {layout.archive}")
    try:
        rows = data.to_uint8()
    except ValueError as error:
        raise UserError(f"{path}: data: {error}") from error
    if rows.shape != (len(labels), _PIXELS):
        raise UserError(
            f"{path}: has {len(labels)} labels and an array {rows.shape}; expected "
            f"({len(labels)}, {_PIXELS})"
        )
    return rows, np.array(labels, dtype=np.int64)


def _unpickled(path: Path, layout: _Layout) -> dict[bytes, Any]:
    try:
        batch = unpickle(_content(path, layout))
    except ValueError as error:
        raise UserError(f"{path}: not read: {error}; expected that of {layout.archive}") from error
    if not isinstance(batch, dict):
        raise UserError(f"{path}: holds no dictionary; expected that of {layout.archive}")
    return batch


def _listed(
    batch: dict[bytes, Any], key: bytes, kind: type, path: Path, layout: _Layout
) -> list[Any]:
    entry = batch.get(key)
    if not isinstance(entry, list) or not entry or not all(isinstance(x, kind) for x in entry):
        raise UserError(
            f"{path}: has no list {key.decode()!r} of {kind.__name__}; expected that of "
            f"{layout.archive}"
        )
    return entry


def _content(path: Path, layout: _Layout) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: missing or unreadable; it is part of {layout.archive}") from error
