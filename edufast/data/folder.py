"""Folders of images, one per class."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edufast.data.samples import Samples, Splits
from edufast.utils.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VAL_NAMES = ("val", "valid", "validation", "test")  # of that split; the first counts that is there
_VAL_SHARE = 0.2


class FolderContent(NamedTuple):
    """What is in a folder of images.

    Attributes:
        layout: that was recognised, in words.
        left_out: how many entries in the folders of the classes are no images, and how many images
            and broken links are beside these folders, by kind.
    """

    layout: str
    splits: Splits
    left_out: Counter[str]


def folder(root: Path, seed: int = 0) -> Splits:
    """The splits of :func:`folder_content`; what is left out is counted in a warning.

    Raises:
        UserError: as :func:`folder_content`.
    """
    _, splits, left_out = folder_content(root, seed)
    if left_out:
        used = len(splits.train) + len(splits.val)
        warnings.warn(
            f"data folder {root}: {used} images are used, {left_out.total()} entries left out: "
            f"{counted(left_out)}; expected {', '.join(sorted(IMAGE_SUFFIXES))} in the folder of a "
            "class",
            stacklevel=2,
        )
    return splits


def folder_content(root: Path, seed: int = 0) -> FolderContent:
    """``root/train/<class>/*`` with ``root/val/<class>/*`` (or ``valid``, ``validation`` or
    ``test``), or ``root/<class>/*``, of which about a fifth of each class is for validation.

    Raises:
        UserError: fewer than two classes, a class without images, with a name that is not UTF-8
            or holds control characters, or in validation only.
    """
    skipped: Counter[str] = Counter()
    if _is_split(root / "train"):
        val_root = next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)
        if val_root is None:
            expected = ", ".join(VAL_NAMES)
            raise UserError(f"data folder {root}: has train, but none of {expected}")
        layout = f"train and {val_root.name}, each with a folder of images for each class"
        train, val = (_class_folders(part, skipped) for part in (root / "train", val_root))
        splits = class_splits(f"data folder {root}", train, val)
    else:
        layout = "a folder of images for each class; about a fifth of each is for validation"
        splits = class_splits(f"data folder {root}", _class_folders(root, skipped), seed=seed)
    return FolderContent(layout, splits, skipped)


def class_splits(
    where: str,
    train: Mapping[str, Sequence[Path]],
    val: Mapping[str, Sequence[Path]] | None = None,
    *,
    seed: int = 0,
) -> Splits:
    """The splits of files by class; without ``val``, about a fifth of each class is for it, chosen
    by file name and ``seed``.

    Raises:
        UserError: fewer than two classes, one in validation only, or too small to be split.
    """
    if val is None:
        halves = {name: split_class(name, sorted(files), seed) for name, files in train.items()}
        train = {name: files for name, (files, _) in halves.items()}
        val = {name: files for name, (_, files) in halves.items()}
    unknown = sorted(val.keys() - train.keys())
    if unknown:
        raise UserError(f"{where}: class {unknown[0]!r} is in validation only")
    if len(train) < 2:
        raise UserError(f"{where}: expected at least 2 classes, got {len(train)}")
    classes = tuple(sorted(train))
    return Splits(
        classes,
        file_samples([train[name] for name in classes]),
        file_samples([val.get(name, []) for name in classes]),
    )


def _is_split(folder: Path) -> bool:
    """Whether it is a folder of folders: a class may be called train, too."""
    return folder.is_dir() and any(
        path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()
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
    text = f"{seed}:{name}" if seed else name
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def counted(skipped: Mapping[str, int]) -> str:
    """How many of each kind were left out, in words."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))


def _class_folders(root: Path, skipped: Counter[str]) -> dict[str, list[Path]]:
    """The image files of each folder in ``root``, sorted. What else is in it is counted in
    ``skipped``, by kind."""
    there = [path for path in root.iterdir() if not path.name.startswith(".")]
    folders = sorted(path for path in there if path.is_dir())
    if beside := sum(p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() for p in there):
        skipped["images beside the folders of classes"] += beside
    if broken := sum(p.is_symlink() and not os.path.exists(p) for p in there):
        skipped["broken links beside the folders of classes"] += broken
    if not folders:
        raise UserError(f"data folder {root}: expected a folder of images for each class, got none")
    found = {}
    for each in folders:
        check_class_name(f"data folder {root}", each.name)
        files, others = [], Counter[str]()
        with os.scandir(each) as entries:
            for entry in entries:
                kind = left_out(entry)
                if kind is None:
                    files.append(each / entry.name)
                else:
                    others[kind] += 1
        if not files:
            found_there = counted(others) or "nothing"
            raise UserError(
                f"data folder {root}: class {each.name!r} has no images: its folder holds "
                f"{found_there}; expected {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        skipped.update(others)
        found[each.name] = sorted(files)
    return found


def check_class_name(where: str, name: str) -> None:
    """Raise `UserError` unless runs can write ``name`` to files and terminals."""
    # What is not UTF-8 appears as surrogates.
    if not name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise UserError(
            f"{where}: class {name!r}: expected a name in UTF-8 without control characters"
        )


def left_out(entry: os.DirEntry[str]) -> str | None:
    """The kind of what is no image file, in the plural; None: it is one."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if entry.name.startswith("."):  # such as ._1.jpg, which macOS puts beside 1.jpg
        return "hidden"
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        is_folder = is_file = False
    if is_folder:
        return "folders"
    if not is_file:  # reading a pipe would wait for ever
        return "pipes, devices or broken links"
    return None if suffix in IMAGE_SUFFIXES else suffix or "without a suffix"


def split_class(name: str, files: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """About 80% and 20% of a class's files, at least one of each, chosen by their names.

    Raises:
        UserError: there is only one.
    """
    if len(files) < 2:
        raise UserError(f"class {name!r}: expected 2 images to split, got {len(files)}")
    positions = {path: position(path, seed) for path in files}
    ordered = sorted(files, key=positions.__getitem__)
    count = sum(p < _VAL_SHARE for p in positions.values())
    count = min(max(count, 1), len(files) - 1)
    return sorted(ordered[count:]), sorted(ordered[:count])
