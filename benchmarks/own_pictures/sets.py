"""Small sets of pictures as class folders of PNG files, drawn from larger ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edufast.data.sources import read

TEST = 100  # most test images of a class
WRITING = ("digits", "glyphs")
Pictures = tuple[NDArray[np.uint8], NDArray[np.int64], Sequence[str]]


def mirrors(name: str) -> bool:
    """Whether a mirrored picture of the set ``name`` still shows the same."""
    return name.partition("-")[0] not in WRITING


def write_set(name: str, photographs: Path, folder: Path, seed: int) -> None:
    """Write ``folder/pictures/<class>`` and ``folder/test/<class>``, which have no image in common.

    Args:
        name: such as ``caltech101-12x40``: 12 classes of 40 pictures each, drawn by ``seed``. The
            digits and glyphs are those of :mod:`edufast.data`.
        photographs: a folder with caltech101_32, food101_32 and cifar-100-binary.
    """
    if folder.exists():
        return
    source, _, size = name.partition("-")
    number, count = map(int, size.split("x"))
    images, labels, names = _read(source, photographs)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(seed)
    large = np.flatnonzero(np.bincount(labels, minlength=len(names)) >= count + 10)
    for c in rng.choice(large, number, replace=False):
        members = rng.permutation(np.flatnonzero(labels == c))[: count + TEST]
        for part, chosen in (("pictures", members[:count]), ("test", members[count:])):
            of_class = unfinished / part / str(names[c])
            of_class.mkdir(parents=True)
            for i in chosen:
                Image.fromarray(images[i]).save(of_class / f"{i}.png")
    unfinished.rename(folder)


def _read(source: str, photographs: Path) -> Pictures:
    """All images (N, H, W, 3), their labels, and names of the classes that folders may have."""
    if source in WRITING:
        classes, *splits = read(source, seed=0)
        images, labels = (
            np.concatenate([getattr(split, key) for split in splits])
            for key in ("images", "labels")
        )
        return images, labels, [f"U+{ord(name):04X}" for name in classes]
    if source == "cifar100":
        folder = photographs / "cifar-100-binary"
        splits = [np.fromfile(folder / f"{split}.bin", np.uint8) for split in ("train", "test")]
        rows = np.concatenate([split.reshape(-1, 3074) for split in splits])
        images = rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        names = (folder / "fine_label_names.txt").read_text().split()
        return images, rows[:, 1].astype(np.int64), names
    files = [np.load(photographs / f"{source}_32" / f"{split}.npz") for split in ("train", "test")]
    images, labels = (np.concatenate([file[key] for file in files]) for key in ("images", "labels"))
    return images, labels, files[0]["class_names"].tolist()
