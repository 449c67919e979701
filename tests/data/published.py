"""Miniatures of published data sets, in their very layouts, and what is asked of all of them."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edufast.data import load_dataset
from edufast.utils.errors import UserError


class Python2Pickler(pickle._Pickler):
    """Protocol 2 with bytes and text as Python 2 wrote its strings."""

    def save_string(self, value):
        content = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}  # noqa: RUF012


def pickled(content) -> bytes:
    """As Python 2 and NumPy 1 wrote it."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def write_pickle(path: Path, content) -> None:
    path.write_bytes(pickled(content))


def records(classes: int, per_class: int, seed: int):
    """Rows (N, 3072) uint8, and labels (N,) uint8 in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(classes, dtype=np.uint8).repeat(per_class))
    rows = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    rows[:, :1024] = 255 - 2 * labels[:, None]  # the red plane tells the class
    return rows, labels


def write_cifar100_binary(parent: Path, train: int = 4, test: int = 2) -> Path:
    folder = parent / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, per_class, seed in (("train", train, 0), ("test", test, 1)):
        rows, labels = records(100, per_class, seed)
        content = np.column_stack([labels // 5, labels, rows])
        (folder / f"{name}.bin").write_bytes(content.tobytes())
    (folder / "fine_label_names.txt").write_text("".join(f"fine{c}\n" for c in range(100)))
    return folder


def write_cifar100_python(parent: Path, train: int = 4, test: int = 2) -> Path:
    folder = parent / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, per_class, seed in (("train", train, 0), ("test", test, 1)):
        rows, labels = records(100, per_class, seed)
        content = {
            "filenames": [f"{i}.png" for i in range(len(rows))],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "data": rows,
        }
        write_pickle(folder / name, content)
    names = {"fine_label_names": [f"fine{c}" for c in range(100)], "coarse_label_names": ["c"]}
    write_pickle(folder / "meta", names)
    return folder


def write_cifar10(parent: Path, layout: str) -> Path:
    """``layout``: bin or py."""
    folder = parent / f"cifar-10-batches-{layout}"
    folder.mkdir(parents=True)
    rows, labels = records(10, 10, 0)
    batches = {f"data_batch_{n + 1}": slice(20 * n, 20 * n + 20) for n in range(5)}
    parts = {name: (rows[part], labels[part]) for name, part in batches.items()}
    parts["test_batch"] = records(10, 2, 1)
    for name, (rows, labels) in parts.items():
        if layout == "bin":
            content = np.column_stack([labels, rows]).tobytes()
            (folder / f"{name}.bin").write_bytes(content)
        else:
            write_pickle(folder / name, {"labels": labels.tolist(), "data": rows})
    names = [f"name{c}" for c in range(10)]
    if layout == "bin":
        (folder / "batches.meta.txt").write_text("\n".join([*names, "", ""]))
    else:
        write_pickle(folder / "batches.meta", {"num_cases_per_batch": 20, "label_names": names})
    return folder


def write_images(folder: Path, names: list[str], label: int, size: int = 16) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        colour = (255 - label % 256, 10 * (number % 20), 90)
        Image.new("RGB", (size, size), colour).save(folder / name, "JPEG")


def write_tiny_imagenet(parent: Path, train: int = 2) -> Path:
    root = parent / "tiny-imagenet-200"
    wnids = [f"n{90000 - 7 * c:08}" for c in range(200)]  # not sorted, as the published ones
    lines = []
    for c, wnid in enumerate(wnids):
        names = [f"{wnid}_{i}.JPEG" for i in range(train)]
        write_images(root / "train" / wnid / "images", names, c)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        lines.append(f"val_{c}.JPEG\t{wnid}\t0\t32\t44\t62\n")
        write_images(root / "val" / "images", [f"val_{c}.JPEG"], c)
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (root / "wnids.txt").write_text("\n".join(wnids))
    words = [*(f"{w}\tthing {c}, res {c}\n" for c, w in enumerate(wnids)), "n99999999\tother\n"]
    (root / "words.txt").write_text("".join(words))
    return root


def write_caltech256(parent: Path, images: int = 3) -> Path:
    root = parent / "256_ObjectCategories"
    for number in range(1, 258):
        name = {1: "ak47", 257: "clutter"}.get(number, f"thing-{number}")
        folder = root / f"{number:03}.{name}"
        write_images(folder, [f"{number:03}_{i:04}.jpg" for i in range(1, images + 1)], number)
    (root / "198.thing-198" / "RENAME2").write_text("a stray that is there in the published one")
    return root


def write_food101(parent: Path, train: int = 2, test: int = 1) -> Path:
    root = parent / "food-101"
    names = [f"dish_{c:03}" for c in range(101)]
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for c, name in enumerate(names):
        numbers = [str(1000 * c + 37 * i) for i in range(train + test)]
        write_images(root / "images" / name, [f"{number}.jpg" for number in numbers], c)
        lists["train"] += [f"{name}/{number}" for number in numbers[:train]]
        lists["test"] += [f"{name}/{number}" for number in numbers[train:]]
    (root / "meta").mkdir()
    (root / "meta" / "classes.txt").write_text("\n".join(names))
    for part, lines in lists.items():
        (root / "meta" / f"{part}.txt").write_text("\n".join(lines))
    return root


def check_folder_and_parent(name: str, root: Path, image_size: int) -> None:
    """Both may be given, and mean the same data; a part of the training split can be held out."""
    given, parent = load_dataset(f"{name}:{root}"), load_dataset(f"{name}:{root.parent}")
    assert given.classes == parent.classes and given.name == f"{name}:{root}"
    assert np.array_equal(given.train.labels, parent.train.labels)
    assert np.array_equal(np.unique(given.train.labels), np.arange(len(given.classes)))
    assert given.image_size == image_size
    held = load_dataset(f"{name}:{root.parent}", holdout=0.5, image_size=16)
    assert len(held.train) + len(held.val) == len(given.train)


def refuses(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(source, image_size=32)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def drop_line(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
