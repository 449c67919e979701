"""Files that hold many pictures each, of which one or several make a data set: finding them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from edufast.data.folder import VAL_NAMES
from edufast.data.listed import used_splits
from edufast.utils.errors import UserError

_SPLIT = re.compile(rf"(train|{'|'.join(VAL_NAMES)})(?![a-z])")  # begins the name of a file
_FOLDERS = frozenset({"data", "default", "train", *VAL_NAMES})  # that may hold shards
_DEPTH = 2  # of folders in folders: default/train


def shards(given: Path, *suffixes: str) -> list[tuple[Path, str | None]]:
    """The shards at ``given``, sorted, and the split that each belongs to; None: to be chosen.

    Args:
        given: one, or a folder: they are in it, or in folders in it that are called data, default,
            or as a split is. Their own names may begin with that of a split, too.
        suffixes: of their names.

    Raises:
        UserError: there is none; or some belong to a split and others to none.
    """
    if not given.is_dir():
        return [(given, None)]
    found = sorted(shard for place in _places(given) for shard in _shards(place, suffixes))
    if not found:
        raise UserError(
            f"{given}: has no {suffixes[0]} files; expected them there, or in folders called "
            f"{', '.join(sorted(_FOLDERS))}"
        )
    splits = {path: _split(path, given) for path in found}
    if not any(splits.values()):
        return [(path, None) for path in found]
    without = next((path for path, split in splits.items() if split is None), None)
    if without is not None:
        raise UserError(
            f"{without}: belongs to no split, and other {suffixes[0]} files do; expected names "
            f"that begin with train, {', '.join(VAL_NAMES)}"
        )
    used = used_splits(str(given), (split for split in splits.values() if split))
    return [(path, used[split]) for path, split in splits.items() if split in used]


def has_shards(folder: Path, *suffixes: str) -> bool:
    """Whether ``folder`` is a data set of shards. One with folders of pictures is not: there such
    files are tables about these pictures, or the archive that they came in."""
    there = False
    for place in _places(folder):
        found = _shards(place, suffixes)
        there = there or bool(found)
        if found or _SPLIT.fullmatch(place.name):
            others = (entry for entry in _visible(place) if entry.name not in _FOLDERS)
            if any(entry.is_dir() for entry in others):
                return False
    return there


def _places(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """``folder``, and folders in it that may hold shards."""
    yield folder
    for entry in _visible(folder):
        if depth and entry.name in _FOLDERS and entry.is_dir():
            yield from _places(folder / entry.name, depth - 1)


def _shards(place: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (entry for entry in _visible(place) if entry.name.lower().endswith(suffixes))
    return [place / entry.name for entry in files if not entry.is_dir()]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _split(path: Path, root: Path) -> str | None:
    """By its own name or by that of its folder."""
    names = (path.name,) if path.parent == root else (path.name, path.parent.name)
    return next((found[1] for name in names if (found := _SPLIT.match(name))), None)
