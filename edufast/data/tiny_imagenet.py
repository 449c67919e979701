"""Tiny ImageNet as published: 200 classes, 64x64 pixels, 500 training images a class.

    tiny-imagenet-200/{wnids,words}.txt
    tiny-imagenet-200/train/<wnid>/images/*.JPEG
    tiny-imagenet-200/val/images/*.JPEG, val/val_annotations.txt

The test images have no published labels, so papers report accuracy on the validation split (50
images a class); hold out training images to compare variants.
"""

from __future__ import annotations

from pathlib import Path

from edufast.data.folder import file_samples
from edufast.data.layout import files_in, find_folder, read_lines, read_pairs
from edufast.data.samples import Splits
from edufast.utils.errors import UserError

ARCHIVE = "tiny-imagenet-200.zip"
CLASSES = 200


def tiny_imagenet(given: Path, seed: int = 0) -> Splits:
    """The official splits, with classes in the order of wnids.txt and named by words.txt; ``seed``
    is not used.

    ``given`` may be the parent folder.

    Raises:
        UserError: a file is missing, or a list is damaged.
    """
    root = find_folder(given, "tiny-imagenet-200", "wnids.txt", ARCHIVE)
    path = root / "wnids.txt"
    wnids = read_lines(path, ARCHIVE)
    if len(set(wnids)) != CLASSES:
        raise UserError(f"{path}: names {len(set(wnids))} classes; expected {CLASSES}")
    words = dict(read_pairs(root / "words.txt", "\t", ARCHIVE))
    classes = tuple(words.get(wnid, wnid) for wnid in wnids)

    train = []
    for wnid in wnids:
        folder = root / "train" / wnid / "images"
        train.append(sorted(folder / name for name in files_in(folder, ".jpeg", ARCHIVE)))
        if len(train[-1]) != len(train[0]):
            raise UserError(
                f"{folder}: has {len(train[-1])} images; expected as many as the class before, "
                f"{len(train[0])}; {ARCHIVE} has 500"
            )
    return Splits(classes, file_samples(train), file_samples(_validation(root, wnids)))


def _validation(root: Path, wnids: list[str]) -> list[list[Path]]:
    folder, listing = root / "val" / "images", root / "val" / "val_annotations.txt"
    files: dict[str, list[Path]] = {wnid: [] for wnid in wnids}
    there = files_in(folder, ".jpeg", ARCHIVE)
    for name, wnid in read_pairs(listing, "\t", ARCHIVE):
        if wnid not in files:
            raise UserError(f"{listing}: {name} is of class {wnid!r}, which is not in wnids.txt")
        if name not in there:
            raise UserError(f"{folder / name}: missing; {listing.name} lists it")
        files[wnid].append(folder / name)
    empty = next((wnid for wnid in wnids if not files[wnid]), None)
    if empty:
        raise UserError(f"{listing}: lists no image of class {empty!r}")
    return [files[wnid] for wnid in wnids]
