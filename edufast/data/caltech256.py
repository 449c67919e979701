"""Caltech-256 (Griffin et al. 2007) as published, without its clutter: 256 classes of 80 or more.

    256_ObjectCategories/<number>.<class>/*.jpg

There is no official split. As is customary, 60 images of each class are for training (15,360 in
total) and the rest for testing (14,420). The choice depends on the file names and the seed.
"""

from __future__ import annotations

from pathlib import Path

from edufast.data.folder import file_samples, position
from edufast.data.layout import files_in, find_folder
from edufast.data.samples import Splits
from edufast.utils.errors import UserError

ARCHIVE = "256_ObjectCategories.tar"
CLASSES = 256
TRAIN_PER_CLASS = 60


def caltech256(given: Path, seed: int = 0) -> Splits:
    """Classes in the order of their numbers; ``given`` may be the parent folder.

    Raises:
        UserError: a class is missing, or has no images left for testing.
    """
    root = find_folder(given, "256_ObjectCategories", "001.ak47", ARCHIVE)
    numbered = {path.name.partition(".")[0]: path for path in root.iterdir() if path.is_dir()}
    classes, train, test = [], [], []
    for number in range(1, CLASSES + 1):
        folder = numbered.get(f"{number:03}")
        if folder is None:
            raise UserError(f"{root}: has no class {number:03}; it is part of {ARCHIVE}")
        # A few folders contain other files, too.
        paths = [folder / name for name in files_in(folder, ".jpg", ARCHIVE)]
        if len(paths) <= TRAIN_PER_CLASS:
            raise UserError(
                f"{folder}: has {len(paths)} images; expected more than the {TRAIN_PER_CLASS} "
                f"for training; {ARCHIVE} has at least 80"
            )
        paths.sort(key=lambda path: position(path, seed))
        classes.append(folder.name.partition(".")[2])
        train.append(sorted(paths[:TRAIN_PER_CLASS]))
        test.append(sorted(paths[TRAIN_PER_CLASS:]))
    return Splits(tuple(classes), file_samples(train), file_samples(test))
