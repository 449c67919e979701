"""Image files that a table lists, with their classes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from edufast.data.folder import check_class_name, file_samples, split_class
from edufast.data.samples import Splits
from edufast.utils.errors import UserError

_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "val"}
_Files = dict[str, list[Path]]


def manifest(path: Path, seed: int = 0) -> Splits:
    """The splits of a CSV file with the columns ``picture``, ``class`` and perhaps ``split``.

    Args:
        path: the file. Pictures are named from its folder, or by absolute paths. Without ``split``
            about a fifth of each class becomes the validation split, chosen by file name; else it
            is "train", or "val" ("valid" and "test" mean the same).
        seed: of that choice.

    Raises:
        UserError: the file cannot be read, lacks a column, names a picture twice or one that does
            not exist; or there are fewer than two classes, or one in validation only.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (csv.Error, OSError) as error:
        raise UserError(f"{path} cannot be read as a CSV file: {error}") from error
    heads = reader.fieldnames or ()
    columns = set(heads) if rows else set()
    for head in columns & {"picture", "class", "split"}:
        if heads.count(head) > 1:
            raise UserError(f"{path}: expected one column {head}, got {heads.count(head)}")
    if not {"picture", "class"} <= columns:
        raise UserError(
            f"{path}: expected the columns picture and class, and a row for each picture"
        )
    parts: dict[str, _Files] = {"train": {}, "val": {}}
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        where = f"{path}, row {number}"
        name, split = row["class"] or "", row.get("split", "train")
        check_class_name(where, name)
        if split not in _SPLITS:
            raise UserError(f"{where}: split is {split!r}; expected one of {', '.join(_SPLITS)}")
        picture = path.parent / (row["picture"] or "")
        if not os.path.isfile(picture):
            raise UserError(f"{where}: {str(picture)!r} is no file")
        place = os.path.abspath(picture)  # the same for every way to write it
        if place in seen:
            raise UserError(f"{where}: {str(picture)!r} is there twice")
        seen.add(place)
        parts[_SPLITS[split]].setdefault(name, []).append(picture)
    return _splits(path, parts, "split" in columns, seed)


def _splits(path: Path, parts: dict[str, _Files], chosen: bool, seed: int) -> Splits:
    train, val = parts["train"], parts["val"]
    if not chosen:
        halves = {name: split_class(name, sorted(files), seed) for name, files in train.items()}
        train = {name: files for name, (files, _) in halves.items()}
        val = {name: files for name, (_, files) in halves.items()}
    unknown = sorted(val.keys() - train.keys())
    if unknown:
        raise UserError(f"{path}: class {unknown[0]!r} is in validation only")
    if len(train) < 2:
        raise UserError(f"{path}: expected at least 2 classes, got {len(train)}")
    classes = tuple(sorted(train))
    return Splits(
        classes,
        file_samples([train[name] for name in classes]),
        file_samples([val.get(name, []) for name in classes]),
    )
