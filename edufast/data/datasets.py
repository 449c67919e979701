"""Data sets: two that come with the package's dependencies, and folders of images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edufast.data.glyphs import CLASSES as GLYPH_CLASSES
from edufast.data.glyphs import glyphs
from edufast.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_VAL_FOLDERS = ("val", "valid", "test")
_VAL_SHARE = 0.2
_MIN_STD = 1e-3  # of a channel that never changes; nothing may divide by zero

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Samples:
    """One split: N images and their classes.

    Attributes:
        images: (N, H, W, 3) uint8, or N image files.
        labels: (N,) int64, positions in the data set's classes.
    """

    images: NDArray[np.uint8] | tuple[Path, ...]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"labels: expected {len(self.images)}, got {len(self.labels)}")
        if self.labels.dtype != np.int64:
            raise TypeError(f"labels: expected int64, got {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A classification data set in two splits.

    Attributes:
        name: what it was asked for by.
        classes: their names; labels are positions in it.
        image_size: height and width of the images a loader should make.
        mean: per channel, of pixel / 255, over at most 2,000 training images (256 of files).
        std: likewise, and never 0.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    image_size: int
    mean: Channels
    std: Channels


def load_dataset(source: str, *, image_size: int | None = None) -> DataSet:
    """The data set called ``source``.

    Args:
        source: ``"digits"`` (scikit-learn's 1,797 handwritten digits, 10 classes), ``"glyphs"``
            (60 rendered characters) or a folder: ``<folder>/train/<class>/*`` with
            ``<folder>/val/<class>/*`` (also ``valid`` or ``test``), or ``<folder>/<class>/*``, of
            which about a fifth of each class becomes the validation split. Which files these are
            depends on their names, so that adding files moves none of the others.
        image_size: height and width in pixels; None: 32, of folders 224.

    Raises:
        UserError: no such data set or folder, fewer than two classes, a class without images, a
            class that only validation has, an unreadable image, an image size below 8, or a
            package missing that the data set needs.
    """
    if image_size is not None and image_size < 8:
        raise UserError(f"image_size: expected at least 8 pixels, got {image_size}")
    try:
        if source in _EMBEDDED:
            size = image_size or 32
            classes, train, val = _EMBEDDED[source](size)
        elif Path(source).is_dir():
            size = image_size or 224
            classes, train, val = _folder(Path(source))
        else:
            known = ", ".join(_EMBEDDED)
            raise UserError(f"data set {source!r}: neither one of {known} nor an existing folder")
        return DataSet(source, classes, train, val, size, *_statistics(train, size))
    except ImportError as error:
        needed = error.name or error
        raise UserError(
            f"data set {source!r} needs {needed}: pip install 'edufast[train]'"
        ) from error


Parts = tuple[tuple[str, ...], Samples, Samples]


def _digits(size: int) -> Parts:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = _resized(np.repeat(grey[..., None], 3, axis=3), size)
    labels = labels.astype(np.int64)
    # Every fifth sample of a class: the writers come in order, so both splits have most of them.
    is_val = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_val[np.flatnonzero(labels == label)[4::5]] = True
    train, val = Samples(images[~is_val], labels[~is_val]), Samples(images[is_val], labels[is_val])
    return tuple(str(digit) for digit in range(10)), train, val


def _glyphs(size: int) -> Parts:
    (train, train_labels), (val, val_labels) = glyphs()
    splits = Samples(_resized(train, size), train_labels), Samples(_resized(val, size), val_labels)
    return GLYPH_CLASSES, *splits


_EMBEDDED = {"digits": _digits, "glyphs": _glyphs}


def _resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    from PIL import Image

    if images.shape[1:3] == (size, size):
        return images
    resized = [Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR) for x in images]
    return np.stack([np.asarray(image) for image in resized])


def _folder(root: Path) -> Parts:
    if (root / "train").is_dir():
        val_root = next((root / name for name in _VAL_FOLDERS if (root / name).is_dir()), None)
        if val_root is None:
            expected = ", ".join(_VAL_FOLDERS)
            raise UserError(f"data folder {root}: has train, but none of {expected}")
        train, val = _class_folders(root / "train"), _class_folders(val_root)
        unknown = sorted(val.keys() - train.keys())
        if unknown:
            raise UserError(f"data folder {root}: class {unknown[0]!r} is in {val_root.name} only")
    else:
        split = {name: _split(files) for name, files in _class_folders(root).items()}
        train = {name: files for name, (files, _) in split.items()}
        val = {name: files for name, (_, files) in split.items()}
    if len(train) < 2:
        raise UserError(f"data folder {root}: expected at least 2 classes, got {len(train)}")
    classes = tuple(sorted(train))
    return classes, _file_samples(train, classes), _file_samples(val, classes)


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The image files of each folder in ``root``, sorted. Other files are not looked at."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"data folder {root}: expected a folder of images for each class, got none")
    found = {}
    for folder in folders:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"data folder {root}: class {folder.name!r} has no images")
        found[folder.name] = files
    return found


def _split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """About 80% and 20% of one class's files, at least one each, by a hash of their names."""
    if len(files) < 2:
        raise UserError(f"class {files[0].parent.name!r}: expected 2 images to split, got 1")

    def position(path: Path) -> float:  # in [0, 1), the same wherever the folder lies
        digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    by_position = sorted(files, key=position)
    count = sum(position(path) < _VAL_SHARE for path in files)
    count = min(max(count, 1), len(files) - 1)
    return sorted(by_position[count:]), sorted(by_position[:count])


def _file_samples(files: dict[str, list[Path]], classes: tuple[str, ...]) -> Samples:
    counts = [len(files.get(name, ())) for name in classes]
    paths = tuple(path for name in classes for path in files.get(name, ()))
    return Samples(paths, np.arange(len(classes), dtype=np.int64).repeat(counts))


def _statistics(train: Samples, size: int) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel of pixel / 255, over evenly spaced samples."""
    images = train.images
    if isinstance(images, np.ndarray):
        pixels = images[_spaced(len(images), 2000)]
    else:
        pixels = np.stack([_decoded(images[i], size) for i in _spaced(len(images), 256)])
    red, green, blue = pixels.reshape(-1, 3).astype(np.float64).T / 255
    mean = red.mean().item(), green.mean().item(), blue.mean().item()
    std = red.std().item(), green.std().item(), blue.std().item()
    return mean, (max(std[0], _MIN_STD), max(std[1], _MIN_STD), max(std[2], _MIN_STD))


def _spaced(length: int, most: int) -> NDArray[np.int64]:
    return np.linspace(0, length - 1, min(length, most)).astype(np.int64)


def _decoded(path: Path, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # lets JPEG decode at a fraction of its size
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image file {path}: cannot be read or decoded") from error
    return np.asarray(small)
