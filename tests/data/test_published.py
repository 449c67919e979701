"""Published data sets are read as they are published, or the damage is told by name."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from edufast.data import caltech256, load_dataset
from edufast.data.pickled import unpickle
from edufast.utils.errors import UserError
from tests.data import published

WRITERS = {
    "cifar-100-binary": ("cifar100", published.write_cifar100_binary),
    "cifar-100-python": ("cifar100", published.write_cifar100_python),
    "cifar-10-batches-bin": ("cifar10", lambda parent: published.write_cifar10(parent, "bin")),
    "cifar-10-batches-py": ("cifar10", lambda parent: published.write_cifar10(parent, "py")),
    "tiny-imagenet-200": ("tiny_imagenet", published.write_tiny_imagenet),
    "256_ObjectCategories": ("caltech256", published.write_caltech256),
    "food-101": ("food101", published.write_food101),
}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(caltech256, "TRAIN_PER_CLASS", 2)


def load(root, **options):
    return load_dataset(f"{WRITERS[root.name][0]}:{root}", **options)


def refuses(root, message):
    with pytest.raises(UserError, match=message) as caught:
        load(root, image_size=32)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("folder", WRITERS)
def test_read_from_the_folder_or_its_parent(folder, tmp_path):
    name, write = WRITERS[folder]
    assert write(tmp_path).name == folder
    given = load_dataset(f"{name}:{tmp_path / folder}")
    parent = load_dataset(f"{name}:{tmp_path}")
    assert given.classes == parent.classes and given.name == f"{name}:{tmp_path / folder}"
    assert np.array_equal(given.train.labels, parent.train.labels)
    assert np.array_equal(np.unique(given.train.labels), np.arange(len(given.classes)))
    size = {"cifar": 32, "tiny-": 64}.get(folder[:5], 224)
    assert given.image_size == size
    held = load_dataset(f"{name}:{tmp_path}", holdout=0.5, image_size=16)
    assert len(held.train) + len(held.val) == len(given.train)


@pytest.mark.parametrize("folder", [name for name in WRITERS if name.startswith("cifar")])
def test_cifar_pixels_and_labels(folder, tmp_path):
    name, write = WRITERS[folder]
    data = load(write(tmp_path))
    rows, labels = published.records(len(data.classes), 4 if name == "cifar100" else 10, 0)
    assert np.array_equal(data.train.labels, labels)
    assert np.array_equal(data.train.images[:, 3, 5, 1], rows[:, 1024 + 3 * 32 + 5])
    assert data.train.images.shape == (len(labels), 32, 32, 3)
    assert len(data.val) == 2 * len(data.classes)
    assert data.classes[7] == ("fine7" if name == "cifar100" else "name7")


def test_both_layouts_of_cifar_are_the_same_data(tmp_path):
    first = load(published.write_cifar100_binary(tmp_path))
    second = load(published.write_cifar100_python(tmp_path))
    assert np.array_equal(first.val.images, second.val.images)
    assert np.array_equal(first.val.labels, second.val.labels)
    assert first.classes == second.classes and first.mean == second.mean


def test_tiny_imagenet_keeps_the_order_of_wnids_and_has_readable_names(tmp_path):
    data = load(published.write_tiny_imagenet(tmp_path))
    assert data.classes[3] == "thing 3, res 3" and len(data.classes) == 200
    assert [path.name for path in data.val.images] == [f"val_{c}.JPEG" for c in range(200)]
    assert {path.parent.parent.name for path in data.train.images[6:8]} == {"n00089979"}


def test_caltech256_leaves_the_clutter_out_and_splits_by_name_and_seed(tmp_path):
    data = load(published.write_caltech256(tmp_path))
    assert data.classes[:2] == ("ak47", "thing-2") and len(data.classes) == 256
    assert np.bincount(data.train.labels).tolist() == [2] * 256
    assert np.bincount(data.val.labels).tolist() == [1] * 256
    assert set(data.train.images).isdisjoint(data.val.images)
    other = load(tmp_path / "256_ObjectCategories", seed=1)
    same = [a == b for a, b in zip(data.val.images, other.val.images, strict=True)]
    assert 0.1 < np.mean(same) < 0.6
    os.rename(tmp_path / "256_ObjectCategories", tmp_path / "moved")
    moved = load_dataset(f"caltech256:{tmp_path / 'moved'}", image_size=32)
    assert [p.name for p in moved.val.images] == [p.name for p in data.val.images]


def test_food101_takes_the_official_lists(tmp_path):
    data = load(published.write_food101(tmp_path))
    assert data.classes[100] == "dish_100"
    assert [p.stem for p in data.train.images[2:4]] == ["1000", "1037"]
    assert data.val.images[1].name == "1074.jpg"


def test_names_without_a_folder(tmp_path):
    with pytest.raises(UserError, match="'nowhere' is no existing folder; expected what"):
        load_dataset("cifar100:nowhere")
    for name, archive in (
        ("cifar100", r"expected train.bin of cifar-100-binary.tar.gz or train of cifar-100-python"),
        ("cifar10", r"expected data_batch_1.bin of cifar-10-binary.tar.gz or data_batch_1 of"),
        ("tiny_imagenet", r"tiny-imagenet-200/wnids.txt; expected tiny-imagenet-200.zip, unpacked"),
        ("caltech256", r"256_ObjectCategories/001.ak47; expected 256_ObjectCategories.tar, unpac"),
        ("food101", r"holds neither meta nor food-101/meta; expected food-101.tar.gz, unpacked"),
    ):
        with pytest.raises(UserError, match=archive):
            load_dataset(f"{name}:{tmp_path}")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def drop_line(path):
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


# What is done to a miniature, and what the message must name: the file and what was expected.
DAMAGE = {
    "cifar-100-binary": [
        (lambda r: cut(r / "train.bin", 100_000), r"train.bin: has 100000 .* a multiple of 3074"),
        (lambda r: cut(r / "train.bin", 0), r"train.bin: has 0 bytes"),
        (lambda r: cut(r / "test.bin", 3074 * 7), r"test.bin: 0 to 1 images of a class; expected"),
        (lambda r: (r / "test.bin").unlink(), r"test.bin: missing .* cifar-100-binary.tar.gz"),
        (lambda r: (r / "test.bin").write_bytes(b"\xff" * 3074), r"labels from 255 to 255; exp"),
        (lambda r: (r / "fine_label_names.txt").unlink(), r"fine_label_names.txt: missing"),
        (lambda r: (r / "fine_label_names.txt").write_text("a\nb"), r"names 2 classes; expected 1"),
    ],
    "cifar-100-python": [
        (lambda r: cut(r / "train", 50_000), r"train: not read: it is damaged .*python.tar.gz"),
        (lambda r: cut(r / "meta", 0), r"meta: not read: it is damaged \(EOFError\)"),
        (lambda r: published.write_pickle(r / "test", []), r"test: holds no dictionary"),
        (lambda r: published.write_pickle(r / "test", {}), r"has no list 'fine_labels' of int"),
        (
            lambda r: published.write_pickle(r / "test", {"fine_labels": [0], "data": [1]}),
            r"test: has no array 'data'",
        ),
        (
            lambda r: published.write_pickle(
                r / "test", {"fine_labels": [0], "data": np.zeros((1, 3072), np.int16)}
            ),
            r"test: data: expected an array of bytes",
        ),
        (
            lambda r: published.write_pickle(
                r / "test", {"fine_labels": [0], "data": np.zeros((2, 3072), np.uint8)}
            ),
            r"test: has 1 labels and an array \(2, 3072\); expected \(1, 3072\)",
        ),
        (lambda r: (r / "meta").unlink(), r"meta: missing or unreadable"),
    ],
    "tiny-imagenet-200": [
        (lambda r: (r / "val" / "val_annotations.txt").unlink(), r"val_annotations.txt: missing"),
        (lambda r: (r / "val" / "images" / "val_9.JPEG").unlink(), r"val_9.JPEG: missing; val_an"),
        (
            lambda r: (r / "train" / "n00089979" / "images" / "n00089979_1.JPEG").unlink(),
            r"n00089979/images: has 1 images; expected as many as the class before, 2",
        ),
        (lambda r: (r / "wnids.txt").write_text("n1\nn2"), r"names 2 classes; expected 200"),
        (lambda r: (r / "words.txt").write_bytes(b"\xff\xfe\0"), r"words.txt: cannot be read as"),
        (lambda r: (r / "words.txt").write_text("n1 thing"), r"words.txt: line 1 is 'n1 thing'"),
        (
            lambda r: (r / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn5\t0"),
            r"val_annotations.txt: val_1.JPEG is of class 'n5', which wnids.txt has not",
        ),
        (
            lambda r: cut(r / "val" / "val_annotations.txt", 200),
            r"val_annotations.txt: lists no image of class 'n00090000'",
        ),
    ],
    "256_ObjectCategories": [
        (
            lambda r: os.rename(r / "077.thing-77", r / "thing-77"),
            r"has no class 077; it is part of 256_ObjectCategories.tar",
        ),
        (
            lambda r: (r / "077.thing-77" / "077_0002.jpg").unlink(),
            r"077.thing-77: has 2 images; expected more than the 2 that train",
        ),
    ],
    "food-101": [
        (lambda r: (r / "meta" / "test.txt").unlink(), r"test.txt: missing; it is part of food-1"),
        (lambda r: (r / "meta" / "classes.txt").write_text("a"), r"names 1 classes; expected 101"),
        (lambda r: (r / "meta" / "test.txt").write_text("pie/1"), r"'pie/1' is of no class in cla"),
        (lambda r: drop_line(r / "meta" / "test.txt"), r"test.txt: lists no image of .*'dish_100'"),
        (lambda r: cut(r / "meta" / "test.txt", 999), r"test.txt: 'dish_0' is of no class in"),
        (lambda r: (r / "images" / "dish_001" / "1037.jpg").unlink(), r"1037.jpg: missing; train"),
        (lambda r: os.rename(r / "images" / "dish_001", r / "x"), r"dish_001: missing; it is a fo"),
    ],
}


@pytest.mark.parametrize("folder", DAMAGE)
def test_damage_is_told_by_name(folder, tmp_path):
    for number, (damage, message) in enumerate(DAMAGE[folder]):
        root = WRITERS[folder][1](tmp_path / str(number))
        damage(root)
        refuses(root, message)


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    root, witness = published.write_cifar100_python(tmp_path), tmp_path / "witness"
    for function, argument in ((os.system, f"touch {witness}"), (eval, "1"), (np.load, "x")):
        content = {"fine_labels": [0], "data": Malicious(function, argument)}
        (root / "train").write_bytes(pickle.dumps(content, protocol=protocol))
        refuses(root, rf"train: not read: it asks for [\w.]+\.{function.__name__}, where only arr")
    assert not witness.exists()


def test_pickled_arrays_are_told_not_made():
    """Neither sub-modules of NumPy, nor strange states of an array, get to NumPy."""
    array = unpickle(published.pickled(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert np.array_equal(array.to_uint8(), [[0, 1, 2], [3, 4, 5]])
    for wrong in (np.zeros(2), np.zeros((2, 2), np.uint8).T.copy("F"), np.array([{}])):
        with pytest.raises(ValueError, match="expected an array of bytes in C order"):
            unpickle(published.pickled(wrong)).to_uint8()
    array.state = (1, (9, 9), *array.state[2:])
    with pytest.raises(ValueError, match="reshape"):
        array.to_uint8()
    array.state = None
    with pytest.raises(ValueError, match="expected an array"):
        array.to_uint8()


def test_a_pickle_cut_anywhere_is_refused():
    whole = published.pickled({"labels": [3, 4], "data": np.zeros((2, 5), np.uint8)})
    assert unpickle(whole)[b"labels"] == [3, 4]
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            unpickle(whole[:length])
