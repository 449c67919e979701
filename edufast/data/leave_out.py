"""Lists of pictures to leave out: written by ``edufast data --fix-list``, read by runs."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from edufast.data.duplicates import Place
from edufast.data.image_files import files_of, without_files
from edufast.data.samples import Splits
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

_HEADS = ["picture", "reason"]


def faults(unreadable: Sequence[Path], groups: Sequence[Sequence[Place]]) -> dict[Path, str]:
    """The files to leave out, and why.

    Args:
        unreadable: files that cannot be decoded.
        groups: of images of the same content. Of a group in several classes all are left out, of
            others all but the first, which is one for training if there is any.
    """
    found = {path: "corrupt" for path in unreadable}
    for group in groups:
        ordered = sorted(group, key=lambda place: place.split != "train")
        several = len({place.label for place in group}) > 1
        for place in ordered if several else ordered[1:]:
            if isinstance(place.image, Path):
                other = ordered[0].image if place is not ordered[0] else ordered[1].image
                what = "in another class, too" if several else "the same as"
                found[place.image] = f"{what}: {other}"
    return found


def write_list(path: Path, found: Mapping[Path, str]) -> None:
    """Write a CSV file with a row for each picture, its absolute path and the reason."""
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(_HEADS)
        rows.writerows([str(_absolute(picture)), reason] for picture, reason in found.items())


def read_list(path: Path) -> set[Path]:
    """The pictures, as absolute paths, of a list that may have been edited since it was written.

    Relative paths are those from the list's folder.

    Raises:
        UserError: there is no such file, or it is no list.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            heads, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"leave_out: {path} cannot be read as a CSV file: {error}") from error
    if heads[:1] != _HEADS[:1]:
        raise UserError(f"leave_out: {path} begins with {heads}; expected the columns {_HEADS}")
    folder = os.path.dirname(os.path.abspath(path))
    return {_absolute(os.path.join(folder, row[0])) for row in rows if row}


def leave_out(splits: Splits, path: Path, source: str) -> Splits:
    """``splits`` without the pictures of the list at ``path``, which a warning counts.

    Raises:
        UserError: as :func:`read_list`; or none of the pictures is in the data, or too few stay.
    """
    files = {_absolute(each): each for split in splits[1:] for each in files_of(split)}
    bad = {files[each] for each in read_list(path) if each in files}
    if not bad:
        raise UserError(f"leave_out: no picture that {path} names is in {source!r}")
    train, val = without_files(splits, bad, source, f"is left by {path}")
    warnings.warn(
        f"data source {source!r}: {len(train) + len(val)} image files are used, {len(bad)} left "
        f"out, which {path} names",
        stacklevel=3,
    )
    return Splits(splits.classes, train, val)


def _absolute(path: str | Path) -> Path:
    """The same for every way to write it; links stay as they are."""
    return Path(os.path.abspath(path))
