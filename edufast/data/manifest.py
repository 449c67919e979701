"""Image files that a table lists, with their classes."""

from __future__ import annotations

import csv
from pathlib import Path

from edufast.data.listed import Listed, listed_splits
from edufast.data.samples import Splits
from edufast.utils.errors import UserError


def manifest(path: Path, seed: int = 0) -> Splits:
    """The splits of a CSV file with the columns ``picture``, ``class`` and perhaps ``split``.

    Args:
        path: the file. Pictures are named from its folder, or by absolute paths. Without ``split``
            about a fifth of each class becomes the validation split, chosen by file name; else it
            is "train", or "val" ("valid", "validation" and "test" mean the same).
        seed: of that choice.

    Raises:
        UserError: the file cannot be read, lacks a column, has a row of too many fields, names a
            picture twice or one that does not exist; or there are fewer than two classes, or one in
            validation only.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            rows, heads = list(reader), reader.fieldnames or ()
    except (csv.Error, OSError) as error:
        raise UserError(f"{path} cannot be read as a CSV file: {error}") from error
    columns = set(heads) if rows else set()
    for head in columns & {"picture", "class", "split"}:
        if heads.count(head) > 1:
            raise UserError(f"{path}: expected one column {head}, got {heads.count(head)}")
    if not {"picture", "class"} <= columns:
        raise UserError(
            f"{path}: expected the columns picture and class, and a row for each picture"
        )
    for number, row in enumerate(rows, 2):
        if any(row.get(None) or ()):  # else part of a name that has a comma would be lost
            fields = len(heads) + len(row[None])
            raise UserError(
                f"{path}, row {number}: expected {len(heads)} fields, got {fields}; a name with a "
                "comma needs quotes around it"
            )
    chosen = "split" not in columns
    pictures = (
        Listed(
            f"{path}, row {number}",
            path.parent / (row["picture"] or ""),
            row["class"] or "",
            None if chosen else row["split"] or "",
        )
        for number, row in enumerate(rows, 2)
    )
    return listed_splits(str(path), pictures, seed)
