"""Folders of images, one per class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edufast.data.samples import Samples, Splits
from edufast.utils.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_VAL_FOLDERS = ("val", "valid", "test")
_VAL_SHARE = 0.2


def folder(root: Path, seed: int = 0) -> Splits:
    """``root/train/<class>/*`` with ``root/val/<class>/*`` (or ``valid`` or ``test``), or
    ``root/<class>/*``, of which about a fifth of each class is for validation.

    Raises:
        UserError: fewer than two classes, a class without images, or one in validation only.
    """
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
        split = {name: _split(files, seed) for name, files in _class_folders(root).items()}
        train = {name: files for name, (files, _) in split.items()}
        val = {name: files for name, (_, files) in split.items()}
    if len(train) < 2:
        raise UserError(f"data folder {root}: expected at least 2 classes, got {len(train)}")
    classes = tuple(sorted(train))
    return Splits(
        classes,
        file_samples([train[name] for name in classes]),
        file_samples([val.get(name, []) for name in classes]),
    )


def file_samples(files: Sequence[Sequence[Path]]) -> Samples:
    """A split from the files of each class."""
    counts = [len(paths) for paths in files]
    labels = np.arange(len(files), dtype=np.int64).repeat(counts)
    return Samples(tuple(path for paths in files for path in paths), labels)


def position(path: Path, seed: int) -> float:
    """Position of an image in a random order of its class, in [0, 1).

    A hash of the names of its folder and file: it does not depend on where the data is, and adding
    files does not move the others.
    """
    name = f"{path.parent.name}/{path.name}"
    digest = hashlib.sha256((f"{seed}:{name}" if seed else name).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The image files of each folder in ``root``, sorted. Other files are ignored."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"data folder {root}: expected a folder of images for each class, got none")
    found = {}
    for each in folders:
        files = sorted(p for p in each.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"data folder {root}: class {each.name!r} has no images")
        found[each.name] = files
    return found


def _split(files: list[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """About 80% and 20% of a class's files, at least one of each."""
    if len(files) < 2:
        raise UserError(f"class {files[0].parent.name!r}: expected 2 images to split, got 1")
    positions = {path: position(path, seed) for path in files}
    ordered = sorted(files, key=positions.__getitem__)
    count = sum(p < _VAL_SHARE for p in positions.values())
    count = min(max(count, 1), len(files) - 1)
    return sorted(ordered[count:]), sorted(ordered[:count])
