"""Small sets of photographs as class folders of PNG files, drawn from larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEST = 100  # most test images of a class
Photographs = tuple[NDArray[np.uint8], NDArray[np.int64], Sequence[str]]


def write_set(name: str, photographs: Path, folder: Path, seed: int) -> None:
    """Write ``folder/pictures/<class>`` and ``folder/test/<class>``, which have no image in common.

    Args:
        name: such as ``caltech101-12x40``: 12 classes of 40 pictures each, drawn by ``seed``.
        photographs: a folder with caltech101_32, food101_32 and cifar-100-binary.
    """
    if folder.exists():
        return
    source, _, size = name.partition("-")
    number, count = map(int, size.split("x"))
    images, labels, names = _read(source, photographs)
    rng = np.random.default_rng(seed)
    large = np.flatnonzero(np.bincount(labels, minlength=len(names)) >= count + 10)
    for c in rng.choice(large, number, replace=False):
        members = rng.permutation(np.flatnonzero(labels == c))[: count + TEST]
        for part, chosen in (("pictures", members[:count]), ("test", members[count:])):
            of_class = folder / part / str(names[c])
            of_class.mkdir(parents=True)
            for i in chosen:
                Image.fromarray(images[i]).save(of_class / f"{i}.png")


def _read(source: str, photographs: Path) -> Photographs:
    """All images (N, 32, 32, 3), their labels, and the names of the classes."""
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
