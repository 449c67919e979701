"""Food-101 is read as published, or the damage is told by name."""

from __future__ import annotations

import os

import pytest

from edufast.data import load_dataset
from tests.data.published import (
    check_folder_and_parent,
    cut,
    drop_line,
    refuses,
    write_food101,
)


def test_the_folder_or_its_parent_is_read(tmp_path):
    check_folder_and_parent("food101", write_food101(tmp_path), 224)


def test_food101_takes_the_official_lists(tmp_path):
    data = load_dataset(f"food101:{write_food101(tmp_path)}")
    assert data.classes[100] == "dish_100"
    assert [p.stem for p in data.train.images[2:4]] == ["1000", "1037"]
    assert data.val.images[1].name == "1074.jpg"


def test_a_folder_without_the_data_says_what_is_expected(tmp_path):
    refuses(
        f"food101:{tmp_path}",
        r"holds neither meta nor food-101/meta; expected food-101.tar.gz, unpacked",
    )


# What is done to a miniature, and what the message must name: the file and what was expected.
DAMAGE = [
    (
        lambda root: (root / "meta" / "test.txt").unlink(),
        r"test.txt: missing; it is part of food-1",
    ),
    (
        lambda root: (root / "meta" / "classes.txt").write_text("a"),
        r"names 1 classes; expected 101",
    ),
    (
        lambda root: (root / "meta" / "test.txt").write_text("pie/1"),
        r"'pie/1' is of a class that is not in cla",
    ),
    (
        lambda root: drop_line(root / "meta" / "test.txt"),
        r"test.txt: lists no image of .*'dish_100'",
    ),
    (
        lambda root: cut(root / "meta" / "test.txt", 999),
        r"test.txt: 'dish_0' is of a class that is not in",
    ),
    (
        lambda root: (root / "images" / "dish_001" / "1037.jpg").unlink(),
        r"1037.jpg: missing; train",
    ),
    (
        lambda root: os.rename(root / "images" / "dish_001", root / "x"),
        r"dish_001: missing; it is a fo",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_told_by_name(damage, message, tmp_path):
    root = write_food101(tmp_path)
    damage(root)
    refuses(f"food101:{root}", message)
