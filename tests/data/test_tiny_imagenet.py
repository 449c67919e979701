"""Tiny ImageNet is read as published, or the damage is told by name."""

from __future__ import annotations

import pytest

from edufast.data import load_dataset
from tests.data.published import check_folder_and_parent, cut, refuses, write_tiny_imagenet


def test_the_folder_or_its_parent_is_read(tmp_path):
    check_folder_and_parent("tiny_imagenet", write_tiny_imagenet(tmp_path), 64)


def test_tiny_imagenet_keeps_the_order_of_wnids_and_has_readable_names(tmp_path):
    data = load_dataset(f"tiny_imagenet:{write_tiny_imagenet(tmp_path)}")
    assert data.classes[3] == "thing 3, res 3" and len(data.classes) == 200
    assert [path.name for path in data.val.images] == [f"val_{c}.JPEG" for c in range(200)]
    assert {path.parent.parent.name for path in data.train.images[6:8]} == {"n00089979"}


def test_a_folder_without_the_data_says_what_is_expected(tmp_path):
    refuses(
        f"tiny_imagenet:{tmp_path}",
        r"tiny-imagenet-200/wnids.txt; expected tiny-imagenet-200.zip, unpacked",
    )


# What is done to a miniature, and what the message must name: the file and what was expected.
DAMAGE = [
    (lambda root: (root / "val" / "val_annotations.txt").unlink(), r"val_annotations.txt: missing"),
    (
        lambda root: (root / "val" / "images" / "val_9.JPEG").unlink(),
        r"val_9.JPEG: missing; val_an",
    ),
    (
        lambda root: (root / "train" / "n00089979" / "images" / "n00089979_1.JPEG").unlink(),
        r"n00089979/images: has 1 images; expected as many as the class before, 2",
    ),
    (lambda root: (root / "wnids.txt").write_text("n1\nn2"), r"names 2 classes; expected 200"),
    (lambda root: (root / "words.txt").write_bytes(b"\xff\xfe\0"), r"words.txt: cannot be read as"),
    (lambda root: (root / "words.txt").write_text("n1 thing"), r"words.txt: line 1 is 'n1 thing'"),
    (
        lambda root: (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn5\t0"),
        r"val_annotations.txt: val_1.JPEG is of class 'n5', which is not in wnids.txt",
    ),
    (
        lambda root: cut(root / "val" / "val_annotations.txt", 200),
        r"val_annotations.txt: lists no image of class 'n00090000'",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_told_by_name(damage, message, tmp_path):
    root = write_tiny_imagenet(tmp_path)
    damage(root)
    refuses(f"tiny_imagenet:{root}", message)
