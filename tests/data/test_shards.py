"""Which files make a data set, and which split each belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from edufast.data.shards import has_shards, shards
from edufast.utils.errors import UserError
from tests.data.folders import make_pictures


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path) -> dict[str, str | None]:
    return {str(path.relative_to(root)): split for path, split in shards(root, ".tar")}


def test_names_begin_with_that_of_a_split(tmp_path: Path) -> None:
    make(tmp_path, "train-1.tar", "train-0.tar", "validation-0.tar", "test.tar", "README.md")
    make(tmp_path, ".train-2.tar", "train-3.tar.gz")
    assert found(tmp_path) == {
        "train-0.tar": "train", "train-1.tar": "train", "validation-0.tar": "val",
    }  # fmt: skip


def test_names_may_end_in_several_ways(tmp_path: Path) -> None:
    make(tmp_path, "train-0.tar", "train-1.tar.gz", "val.tgz", "val.gz")
    both = shards(tmp_path, ".tar", ".tgz")
    assert [(path.name, split) for path, split in both] == [
        ("train-0.tar", "train"), ("val.tgz", "val"),
    ]  # fmt: skip
    assert has_shards(tmp_path, ".parquet", ".tar.gz") and not has_shards(tmp_path, ".parquet")


def test_folders_are_called_as_splits_are(tmp_path: Path) -> None:
    make(tmp_path, "default/train/0000.tar", "default/test/0000.tar", "default/0/train-0.tar")
    assert found(tmp_path) == {"default/train/0000.tar": "train", "default/test/0000.tar": "val"}


def test_train_alone_and_names_without_a_split_are_to_be_split(tmp_path: Path) -> None:
    assert found(make(tmp_path / "a", "data/train-0.TAR")) == {"data/train-0.TAR": None}
    assert found(make(tmp_path / "b", "trains.tar", "2.tar")) == {"2.tar": None, "trains.tar": None}
    assert shards(tmp_path / "b" / "2.tar", ".tar") == [(tmp_path / "b" / "2.tar", None)]


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.tar files; expected them there, or in folders"):
        found(tmp_path)
    with pytest.raises(UserError, match=r"has no \.tar files"):
        shards(make(tmp_path, "x.gz"), ".tar", ".tgz")
    with pytest.raises(UserError, match=r"2\.tar: belongs to no split, and other \.tar files do"):
        found(make(tmp_path / "a", "train-1.tar", "2.tar"))
    with pytest.raises(UserError, match="has the splits test; expected train"):
        found(make(tmp_path / "b", "test-1.tar"))


def test_a_table_beside_folders_of_pictures_makes_no_data_set(tmp_path: Path) -> None:
    assert has_shards(make(tmp_path / "a", "data/train-0.tar", "assets/logo.png"), ".tar")
    for split in ("train", "val"):
        make_pictures(tmp_path / "b" / split / "cat", 2)
    make(tmp_path / "b", "archive.tar", ".cache/x")
    assert not has_shards(tmp_path / "b", ".tar")
    (tmp_path / "b" / "archive.tar").rename(tmp_path / "b" / "train" / "metadata.tar")
    assert not has_shards(tmp_path / "b", ".tar")
    assert has_shards(make(tmp_path / "c", "x.tar", ".git/x"), ".tar")
    assert not has_shards(make(tmp_path / "c", "cat/1.png"), ".tar")
    assert not has_shards(make(tmp_path / "d", "x.txt"), ".tar")
