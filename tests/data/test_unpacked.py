"""Pictures of shards become files: once, all or none, and again when the shard changes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edufast.data.unpacked import Packed, unpacked
from edufast.utils.errors import UserError
from tests.data.packed import content

CONTENTS = [
    content(k, kind) for k, kind in enumerate(("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"))
]


@pytest.fixture
def shard(tmp_path: Path, cache: Path) -> Path:
    path = tmp_path / "shard.tar"
    path.write_bytes(b"0")
    return path


def pictures() -> list[Packed]:
    return [Packed(each, f"class {number}") for number, each in enumerate(CONTENTS)]


def test_they_are_files_with_the_suffixes_of_their_formats(shard: Path, cache: Path) -> None:
    found = unpacked(shard, [*pictures(), Packed(b"no picture", "?", "val"), Packed(b"", "?")])
    assert [each.picture.read_bytes() for each in found[:6]] == CONTENTS
    suffixes = [".jpg", ".png", ".webp", ".bmp", ".tif", ".ppm", ".unknown", ".unknown"]
    assert [each.picture.suffix for each in found] == suffixes
    assert all(cache in each.picture.parents for each in found)
    assert found[2][2:] == ("class 2", None) and found[6][2:] == ("?", "val")
    assert found[1].where == f"{shard}, picture 1" and found[0].picture.parent.name == shard.name


def test_they_are_read_once_and_again_when_the_shard_changes(shard: Path) -> None:
    def never() -> Iterator[Packed]:
        raise AssertionError("read again")
        yield

    first = unpacked(shard, pictures())
    assert unpacked(shard, never()) == first
    first[1].picture.unlink()
    assert unpacked(shard, pictures()) == first and first[1].picture.is_file(), "one was removed"
    shard.write_bytes(b"01")
    (other,) = unpacked(shard, [Packed(b"", "?")])
    assert other.picture not in {each.picture for each in first}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: b"",
        lambda text: b"null",
        lambda text: b"[" * 5000,
        lambda text: text.replace(b"class 1", b"class 3"),
    ],
)
def test_they_are_read_again_where_their_index_is_damaged(shard: Path, damage) -> None:
    first = unpacked(shard, pictures())
    (index,) = first[0].picture.parent.glob("*.index")
    index.write_bytes(damage(index.read_bytes()))
    assert unpacked(shard, pictures()) == first


def test_files_that_a_shard_names_are_not_copied(shard: Path, tmp_path: Path) -> None:
    outside = tmp_path / "picture.png"
    (found,) = unpacked(shard, [Packed(outside, "cat")])
    assert found.picture == outside
    assert unpacked(shard, []) == [found], "whether they are there is not asked here"


def test_nothing_is_kept_of_what_cannot_be_read_to_its_end(shard: Path, cache: Path) -> None:
    def broken() -> Iterator[Packed]:
        yield Packed(CONTENTS[0], "cat")
        raise UserError("is cut off")

    with pytest.raises(UserError, match="is cut off"):
        unpacked(shard, broken())
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]
    assert len(unpacked(shard, pictures())) == 6


def test_a_cache_that_cannot_be_written_is_told_with_what_names_another(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDUFAST_CACHE", str(shard))  # a file
    with pytest.raises(UserError, match=r"cannot be unpacked into .*: Not a dir.*EDUFAST_CACHE"):
        unpacked(shard, pictures())


WAITS = """
import os, sys
from pathlib import Path
from edufast.data.unpacked import unpacked

def never():
    os._exit(3)
    yield

print("looks", flush=True)
unpacked(Path(sys.argv[1]), never())
"""


def test_another_process_waits_until_all_is_there(shard: Path) -> None:
    others: list[subprocess.Popen[str]] = []

    def slowly() -> Iterator[Packed]:
        yield Packed(CONTENTS[0], "cat")
        command = [sys.executable, "-c", WAITS, str(shard)]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        out = others[0].stdout
        assert out is not None and out.readline() == "looks\n"
        time.sleep(0.3)  # in which it would find nothing, did it not wait
        yield Packed(CONTENTS[1], "cat")

    unpacked(shard, slowly())
    assert others[0].wait(60) == 0
