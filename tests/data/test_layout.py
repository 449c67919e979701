"""Parts of a data set on disk are found, or what is missing is told by name."""

from __future__ import annotations

import os

import pytest

from edufast.data.layout import files_in, find_folder, read_lines, read_pairs
from edufast.utils.errors import UserError


def test_an_unpacked_folder_is_found_itself_or_inside_its_parent(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(
        UserError, match=r"holds neither list.txt nor set/list.txt; expected s.tar,"
    ):
        find_folder(tmp_path, "set", "list.txt", "s.tar")
    (tmp_path / "set" / "list.txt").write_text("")
    assert find_folder(tmp_path, "set", "list.txt", "s.tar") == tmp_path / "set"
    assert find_folder(tmp_path / "set", "set", "list.txt", "s.tar") == tmp_path / "set"


def test_lines_without_the_blank_ones(tmp_path):
    path = tmp_path / "list.txt"
    with pytest.raises(UserError, match=r"list.txt: missing; it is part of s.tar"):
        read_lines(path, "s.tar")
    path.write_text("a\n\n  \nb c\n")
    assert read_lines(path, "s.tar") == ["a", "b c"]
    path.write_text("\n")
    with pytest.raises(UserError, match=r"list.txt: is empty; it is part of s.tar"):
        read_lines(path, "s.tar")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"list.txt: cannot be read as text"):
        read_lines(path, "s.tar")


def test_pairs_are_the_first_two_columns(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a\tb c\td\ne\tf\n")
    assert list(read_pairs(path, "\t", "s.tar")) == [("a", "b c"), ("e", "f")]
    path.write_text("a\tb\nc d\n")
    with pytest.raises(UserError, match=r"list.txt: line 2 is 'c d'; expected two columns"):
        list(read_pairs(path, "\t", "s.tar"))


def test_files_are_known_by_their_suffix_in_either_case(tmp_path):
    for name in ("a.jpg", "b.JPG", "c.png", "jpg", "._a.jpg"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert files_in(tmp_path, ".jpg", "s.tar") == {"a.jpg", "b.JPG"}
    with pytest.raises(UserError, match=r"has no .gif images; expected those of s.tar"):
        files_in(tmp_path, ".gif", "s.tar")
    with pytest.raises(UserError, match=r"nowhere: missing; it is a folder of s.tar"):
        files_in(tmp_path / "nowhere", ".jpg", "s.tar")
