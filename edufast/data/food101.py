"""Food-101 (Bossard et al. 2014) as published: 101 dishes, 750 training and 250 test images each.

food-101/meta/{classes,train,test}.txt
food-101/images/<class>/<number>.jpg
"""

from __future__ import annotations

from pathlib import Path

from edufast.data.folder import file_samples
from edufast.data.layout import files_in, find_folder, read_lines
from edufast.data.samples import Samples, Splits
from edufast.utils.errors import UserError

ARCHIVE = "food-101.tar.gz"
CLASSES = 101


def food101(given: Path, seed: int = 0) -> Splits:
    """The official splits, with classes in the order of meta/classes.txt; ``seed`` is not used.

    ``given`` may be the parent folder.

    Raises:
        UserError: a file is missing, or a list is damaged.
    """
    root = find_folder(given, "food-101", "meta", ARCHIVE)
    path = root / "meta" / "classes.txt"
    classes = tuple(read_lines(path, ARCHIVE))
    if len(set(classes)) != CLASSES:
        raise UserError(f"{path}: names {len(set(classes))} classes; expected {CLASSES}")
    there = {name: files_in(root / "images" / name, ".jpg", ARCHIVE) for name in classes}

    def split(part: str) -> Samples:
        listing = root / "meta" / f"{part}.txt"
        files: dict[str, list[Path]] = {name: [] for name in classes}
        for line in read_lines(listing, ARCHIVE):
            name, _, image = line.partition("/")
            if name not in files:
                raise UserError(f"{listing}: {line!r} is of a class that is not in {path.name}")
            image_path = root / "images" / name / f"{image}.jpg"
            if image_path.name not in there[name]:
                raise UserError(f"{image_path}: missing; {listing.name} lists it")
            files[name].append(image_path)
        empty = next((name for name in classes if not files[name]), None)
        if empty:
            raise UserError(f"{listing}: lists no image of class {empty!r}")
        return file_samples([files[name] for name in classes])

    return Splits(classes, split("train"), split("test"))
