"""Tar shards of WebDataset."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from edufast.data.sources import parsed as source_path
from edufast.data.webdataset import webdataset
from edufast.utils.errors import UserError
from tests.data.packed import content, contents, expected, samples, write_tar

pytestmark = pytest.mark.usefixtures("cache")


def test_shards_are_those_of_splits(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000000.tar", samples(8))
    write_tar(tmp_path / "train-000001.tar", samples(4, 8))
    write_tar(tmp_path / "val-000000.tar", samples(5, 50))
    found = webdataset(tmp_path)
    assert found.classes == ("cat", "dog")
    assert contents(found.train) == expected(12) and contents(found.val) == expected(5, 50)


def test_compressed_shards_are_read_and_those_with_damage_anywhere_are_refused(
    tmp_path: Path,
) -> None:
    write_tar(tmp_path / "train-0.tar.gz", samples(8))
    write_tar(tmp_path / "train-1.TAR", samples(4, 8))
    path = write_tar(tmp_path / "val.tgz", samples(5, 50))
    assert source_path(str(path))[0] == source_path(str(tmp_path))[0] == "webdataset"
    found = webdataset(tmp_path)
    assert contents(found.train) == expected(12) and contents(found.val) == expected(5, 50)
    whole = path.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]
    for damaged in (b"", whole[:9], whole[:half], whole[:-9], whole[:-1], flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"val\.tgz: (cannot be read as a tar|is damaged)"):
            webdataset(path)


def test_shards_without_splits_are_split_by_the_seed(tmp_path: Path) -> None:
    for number in range(4):
        write_tar(tmp_path / f"shard-{number:06}.tar", samples(10, 10 * number))
    first, other = webdataset(tmp_path), webdataset(tmp_path, 1)
    assert contents(first.train) | contents(first.val) == expected(40)
    assert contents(first.val) != contents(other.val)
    single = webdataset(tmp_path / "shard-000002.tar")
    assert contents(single.train) | contents(single.val) == expected(10, 20)


def test_classes_are_numbers_or_in_json_and_other_files_are_passed_over(tmp_path: Path) -> None:
    members: list[tuple[str, bytes]] = []
    for number, about in enumerate([{"label": "a"}, {"class": "a"}, {"cls": 7}, {"label": 7}]):
        key = f"./in/folders.d/{number}"
        members += [
            (f"{key}.seg.png", b"mask"),
            (f"{key}.json", json.dumps({"caption": "x", **about}).encode()),
            (f"{key}.JPG", content(number, "JPEG")),
            (f"./in/folders.d/._{number}.jpg", b"what macOS puts there"),
        ]
    members += [("x/8.cls", b"7\n"), ("x/8.webp", content(8, "WEBP"))]
    found = webdataset(write_tar(tmp_path / "x.tar", members))
    assert found.classes == ("7", "a") and len(found.train) + len(found.val) == 5


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.cls", b"a")], "x.tar: '1' has 0 pictures; expected one"),
        ([("1.png", b"1"), ("1.jpg", b"2"), ("1.cls", b"a")], "'1' has 2 pictures; expected one"),
        ([("1.png", b"1")], "'1': has no class; expected a .cls file, or a .json file with label"),
        ([("1.png", b"1"), ("1.json", b"{}")], "'1': has no class; expected"),
        ([("1.png", b"1"), ("1.json", b"[3]")], "'1': has no class; expected"),
        ([("1.png", b"1"), ("1.json", b'{"label": [1]}')], "'1': has no class; expected"),
        ([("1.png", b"1"), ("1.json", b"{")], "'1': its class cannot be read: "),
        ([("1.png", b"1"), ("1.json", b"[" * 100_000)], "'1': its class cannot be read: "),
        ([("1.png", b"1"), ("1.cls", b"\xff")], "'1': its class cannot be read: "),
        ([("1.png", b"1"), ("1.cls", b"")], "picture 0: class '': expected a name"),
    ],
)
def test_samples_without_a_picture_or_class_are_refused(
    members: list[tuple[str, bytes]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as told:
        webdataset(write_tar(tmp_path / "x.tar", members))
    assert "\n" not in str(told.value)


def test_a_shard_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(6))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    for length in (
        0,
        100,
        third.offset,
        third.offset + 100,
        third.offset_data,
        third.offset_data + 2,
    ):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.tar: (cannot be read as a tar|is damaged or cut)"):
            webdataset(path)
    path.write_bytes(whole[: third.offset] + b"?" * 512 + whole[third.offset + 512 :])
    with pytest.raises(UserError, match=r"x\.tar: is damaged or cut off; expected a whole tar fil"):
        webdataset(path)
