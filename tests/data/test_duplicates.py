"""Images that are in a data set more than once are found, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edufast.data.duplicates import Place, duplicates
from edufast.data.samples import Samples


def files(folder, contents: dict[str, bytes]) -> Samples:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    labels = np.arange(len(contents), dtype=np.int64) // 2
    return Samples(tuple(folder / name for name in contents), labels)


def test_files_are_compared_byte_by_byte_within_and_across_splits(tmp_path):
    train = files(tmp_path / "t", {"a": b"one", "b": b"two", "c": b"one", "d": b"three"})
    val = files(tmp_path / "v", {"e": b"six", "f": b"two", "g": b"four"})
    groups = duplicates({"train": train, "val": val})
    assert groups == [
        [Place("train", 0, tmp_path / "t/a"), Place("train", 1, tmp_path / "t/c")],
        [Place("train", 0, tmp_path / "t/b"), Place("val", 0, tmp_path / "v/f")],
    ]
    assert duplicates({"train": train, "val": val}, {tmp_path / "t/b"}) == groups[:1]


def test_only_files_of_equal_size_are_read(tmp_path, monkeypatch):
    samples = files(tmp_path / "t", {"a": b"one", "b": b"two", "c": b"three"})
    read, whole = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or whole(self))
    assert duplicates({"train": samples}) == []
    assert read == ["a", "b"]


def test_arrays_are_compared_pixel_by_pixel():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    images[4] = images[1]
    train = Samples(images[:3], np.array([0, 1, 1]))
    val = Samples(images[3:], np.array([0, 0, 1]))
    expected = [[Place("train", 1, 1), Place("val", 0, 1)]]
    assert duplicates({"train": train, "val": val}) == expected
