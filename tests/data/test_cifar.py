"""CIFAR is read in all layouts it is published in, or the damage is told by name."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from edufast.data import load_dataset
from tests.data.published import (
    check_folder_and_parent,
    cut,
    records,
    refuses,
    write_cifar10,
    write_cifar100_binary,
    write_cifar100_python,
    write_pickle,
)

WRITERS = {
    "cifar-100-binary": ("cifar100", write_cifar100_binary),
    "cifar-100-python": ("cifar100", write_cifar100_python),
    "cifar-10-batches-bin": ("cifar10", lambda parent: write_cifar10(parent, "bin")),
    "cifar-10-batches-py": ("cifar10", lambda parent: write_cifar10(parent, "py")),
}


@pytest.mark.parametrize("folder", WRITERS)
def test_the_folder_or_its_parent_is_read(folder, tmp_path):
    name, write = WRITERS[folder]
    root = write(tmp_path)
    assert root.name == folder
    check_folder_and_parent(name, root, 32)


@pytest.mark.parametrize("folder", WRITERS)
def test_cifar_pixels_and_labels(folder, tmp_path):
    name, write = WRITERS[folder]
    data = load_dataset(f"{name}:{write(tmp_path)}")
    rows, labels = records(len(data.classes), 4 if name == "cifar100" else 10, 0)
    assert np.array_equal(data.train.labels, labels)
    assert np.array_equal(data.train.images[:, 3, 5, 1], rows[:, 1024 + 3 * 32 + 5])
    assert data.train.images.shape == (len(labels), 32, 32, 3)
    assert len(data.val) == 2 * len(data.classes)
    assert data.classes[7] == ("fine7" if name == "cifar100" else "name7")


def test_both_layouts_of_cifar_are_the_same_data(tmp_path):
    first = load_dataset(f"cifar100:{write_cifar100_binary(tmp_path)}")
    second = load_dataset(f"cifar100:{write_cifar100_python(tmp_path)}")
    assert np.array_equal(first.val.images, second.val.images)
    assert np.array_equal(first.val.labels, second.val.labels)
    assert first.classes == second.classes and first.mean == second.mean


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar100", r"expected train.bin of cifar-100-binary.tar.gz or train of cifar-100-python"),
        ("cifar10", r"expected data_batch_1.bin of cifar-10-binary.tar.gz or data_batch_1 of"),
    ],
)
def test_a_folder_without_the_data_says_what_is_expected(name, message, tmp_path):
    refuses(f"{name}:{tmp_path}", message)


# What is done to a miniature, and what the message must name: the file and what was expected.
DAMAGED_BYTES = [
    (lambda root: cut(root / "train.bin", 100_000), r"train.bin: has 100000 .* a multiple of 3074"),
    (lambda root: cut(root / "train.bin", 0), r"train.bin: has 0 bytes"),
    (
        lambda root: cut(root / "test.bin", 3074 * 7),
        r"test.bin: 0 to 1 images of a class; expected",
    ),
    (lambda root: (root / "test.bin").unlink(), r"test.bin: missing .* cifar-100-binary.tar.gz"),
    (lambda root: (root / "test.bin").write_bytes(b"\xff" * 3074), r"labels from 255 to 255; exp"),
    (lambda root: (root / "fine_label_names.txt").unlink(), r"fine_label_names.txt: missing"),
    (
        lambda root: (root / "fine_label_names.txt").write_text("a\nb"),
        r"names 2 classes; expected 1",
    ),
]


DAMAGED_PICKLES = [
    (lambda root: cut(root / "train", 50_000), r"train: not read: it is damaged .*python.tar.gz"),
    (lambda root: cut(root / "meta", 0), r"meta: not read: it is damaged \(EOFError\)"),
    (lambda root: write_pickle(root / "test", []), r"test: holds no dictionary"),
    (lambda root: write_pickle(root / "test", {}), r"has no list 'fine_labels' of int"),
    (
        lambda root: write_pickle(root / "test", {"fine_labels": [0], "data": [1]}),
        r"test: has no array 'data'",
    ),
    (
        lambda root: write_pickle(
            root / "test", {"fine_labels": [0], "data": np.zeros((1, 3072), np.int16)}
        ),
        r"test: data: expected an array of bytes",
    ),
    (
        lambda root: write_pickle(
            root / "test", {"fine_labels": [0], "data": np.zeros((2, 3072), np.uint8)}
        ),
        r"test: has 1 labels and an array \(2, 3072\); expected \(1, 3072\)",
    ),
    (lambda root: (root / "meta").unlink(), r"meta: missing or unreadable"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED_BYTES)
def test_damaged_bytes_are_told_by_name(damage, message, tmp_path):
    root = write_cifar100_binary(tmp_path)
    damage(root)
    refuses(f"cifar100:{root}", message)


@pytest.mark.parametrize(("damage", "message"), DAMAGED_PICKLES)
def test_damaged_pickles_are_told_by_name(damage, message, tmp_path):
    root = write_cifar100_python(tmp_path)
    damage(root)
    refuses(f"cifar100:{root}", message)


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    root, witness = write_cifar100_python(tmp_path), tmp_path / "witness"
    for function, argument in ((os.system, f"touch {witness}"), (eval, "1"), (np.load, "x")):
        content = {"fine_labels": [0], "data": Malicious(function, argument)}
        (root / "train").write_bytes(pickle.dumps(content, protocol=protocol))
        refuses(
            f"cifar100:{root}",
            rf"train: not read: it names [\w.]+\.{function.__name__}, but only arr",
        )
    assert not witness.exists()
