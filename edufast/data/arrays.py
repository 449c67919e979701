"""Arrays of images on disk, as NumPy writes them.

<folder>/{train,test}.npz, each with images, labels and class_names
<folder>/{train,test}_images.npy, {train,test}_labels.npy and class_names.npy

images: (N, H, W, 3) uint8. labels: (N,) integers, positions in class_names. class_names: (C,)
strings.

Images are mapped into memory, not read: processes share them, and a set may be larger than memory.
The file must not shrink meanwhile. Compressed members of an .npz file cannot be mapped and are read
once. Nothing is unpickled.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edufast.data.samples import Samples, Splits
from edufast.utils.errors import UserError, one_line

_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name, whose length is at byte 26
_CHUNK = 1 << 20


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def arrays(given: Path, seed: int = 0) -> Splits:
    """The splits in the folder ``given``; ``seed`` is not used.

    Raises:
        UserError: an array is missing, damaged, or has another shape or dtype than expected; labels
            are out of range; there are not as many names as classes, or train and test name
            different ones.
    """
    names: dict[str, tuple[str, ...]] = {}
    parts = {}
    for split in ("train", "test"):
        if (given / f"{split}.npz").is_file():
            found = _npz(given / f"{split}.npz")
        elif (given / f"{split}_images.npy").is_file():
            found = _npy(given, split)
        else:
            raise UserError(
                f"{given}: has neither {split}.npz nor {split}_images.npy; expected one of them"
            )
        parts[split], names[split] = found
    if names["train"] != names["test"]:
        raise UserError(
            f"{given}: train and test name different classes; expected the same in the same order"
        )
    return Splits(names["train"], parts["train"], parts["test"])


def _npz(path: Path) -> tuple[Samples, tuple[str, ...]]:
    with _errors_in_one_line(str(path)), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        there = archive.namelist()
        for name in ("images", "labels", "class_names"):
            if f"{name}.npy" not in there:
                raise UserError(
                    f"has no array {name!r}; expected images, labels and class_names, found "
                    f"{', '.join(name.removesuffix('.npy') for name in there[:10]) or 'none'}"
                )
        images, labels, names = (
            _member(file, archive, archive.getinfo(f"{name}.npy"))
            for name in ("images", "labels", "class_names")
        )
        return _checked(images, labels, names)


def _npy(folder: Path, split: str) -> tuple[Samples, tuple[str, ...]]:
    found = []
    for name in (f"{split}_images.npy", f"{split}_labels.npy", "class_names.npy"):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; expected it beside {split}_images.npy")
        with _errors_in_one_line(str(path)), path.open("rb") as file:
            header = _header(file, path.stat().st_size)
            found.append(_mapped(file, header, file.tell()))
    with _errors_in_one_line(f"{folder}: {split}"):
        return _checked(*found)


@contextmanager
def _errors_in_one_line(what: str) -> Iterator[None]:
    """Turn errors of reading into one line that begins with ``what``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    # What zipfile and NumPy say about damaged files, encryption, and unknown compression.
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zlib.error) as error:
        raise UserError(f"{what}: cannot be read: {one_line(error)}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{what}: is damaged or no .npz file: {one_line(error)}") from error


def _member(file: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of an .npz file, mapped where it is stored as it is."""
    with _errors_in_one_line(member.filename), archive.open(member) as content:
        header = _header(content, member.file_size)
        start = content.tell()
        if member.compress_type != zipfile.ZIP_STORED:
            return _read(content, header)
        while content.read(_CHUNK):  # to the end, where the checksum is compared
            pass
        file.seek(member.header_offset)
        local = file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        offset = member.header_offset + _LOCAL_HEADER + lengths + start
        return _mapped(file, header, offset)


def _header(file: IO[bytes], length: int) -> _Header:
    """Shape and dtype of the array in ``file``, of ``length`` bytes, which is then behind them."""
    try:
        shape, fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    except (OSError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # a damaged header can fail in any way
        raise UserError(
            "is damaged or no array: its header, of format 1.0 or 2.0, cannot be read"
        ) from error
    if dtype.hasobject:
        raise UserError("holds pickled objects, which may run code; expected numbers or strings")
    if fortran and len(shape) > 1:
        raise UserError("is in Fortran order; expected C order, as of numpy.ascontiguousarray")
    if any(length < 0 for length in shape):
        raise UserError(f"has the shape {shape}; expected no negative length")
    size, available = math.prod(shape) * dtype.itemsize, length - file.tell()
    if size != available:
        raise UserError(f"has {available} bytes of data; expected {size} for {dtype} {shape}")
    return _Header(shape, dtype)


def _mapped(file: IO[bytes], header: _Header, offset: int) -> NDArray[Any]:
    if 0 in header.shape:  # nothing cannot be mapped
        return np.empty(header.shape, header.dtype)
    return np.memmap(file, header.dtype, "r", offset, header.shape).view(np.ndarray)


def _read(file: IO[bytes], header: _Header) -> NDArray[Any]:
    array = np.empty(header.shape, header.dtype)
    content, done = array.reshape(-1).view(np.uint8), 0
    while part := file.read(_CHUNK):  # to the end, where the checksum is compared
        content[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if done != len(content):
        raise UserError(f"ends after {done} bytes of data; expected {len(content)}")
    return array


def _checked(
    images: NDArray[Any], labels: NDArray[Any], names: NDArray[Any]
) -> tuple[Samples, tuple[str, ...]]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise UserError(
            f"images is {images.dtype} {images.shape}; expected uint8 (N, H, W, 3), from 0 to 255"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"labels is {labels.dtype} {labels.shape}; expected integers ({len(images)},), one for "
            "each image"
        )
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(
            f"class_names is {names.dtype} {names.shape}; expected strings (C,), one for each class"
        )
    try:
        classes = tuple(names.tolist())
    except (SystemError, ValueError) as error:  # no characters
        raise UserError("class_names is damaged; expected strings") from error
    twice = [name for position, name in enumerate(classes) if name in classes[:position]]
    if twice or "" in classes:
        raise UserError(
            f"class_names has {(twice or [''])[0]!r} {'twice' if twice else 'as a name'}; expected "
            "a name of its own for each class"
        )
    for name in classes:
        if not name.isprintable():  # lone surrogates are not, either
            raise UserError(f"class_names has {name!r}; expected printable text")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise UserError(
            f"labels are from {low} to {high}; expected 0 to {len(classes) - 1}, positions among "
            f"{len(classes)} class_names"
        )
    return Samples(images, labels.astype(np.int64)), classes
