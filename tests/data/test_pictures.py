"""Pictures of a user: found in files and folders, and read as DALI reads them."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from edufast.data.centre_crop import CentreCrop
from edufast.data.image_files import UnreadableImage, unreadable
from edufast.data.pictures import find_pictures, read_picture
from edufast.utils.errors import UserError
from tests.data.folders import make_images
from tests.data.odd_pictures import seen_in_validation, write_odd_pictures


def test_every_kind_of_file_is_read_as_in_validation(tmp_path):
    """Colours, alpha, depth, and the orientation of the EXIF data."""
    wrong = {}
    for path in write_odd_pictures(tmp_path):
        picture = read_picture(path)
        assert picture.mode == "RGB"
        made, expected = CentreCrop.to(48, 48)(picture), seen_in_validation(path, 48)
        difference = np.abs(made - expected)[1:-1, 1:-1].max()  # the rim is resampled otherwise
        if difference > 1:
            wrong[path.name] = difference
    assert not wrong


def damaged(folder) -> list:
    """Files that neither DALI nor this reads."""
    make_images(folder, 1)
    whole = (folder / "000.png").read_bytes()
    contents = {"text.png": b"not an image", "cut.png": whole[: len(whole) // 2], "empty.jpg": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (9, 9)).save(folder / "gif.png", format="GIF")
    Image.fromarray(np.full((9, 9), 1 << 20, np.int32)).save(folder / "integers.tif")
    (folder / "nothing.png").symlink_to("nowhere")
    (folder / "000.png").unlink()
    return sorted(folder.iterdir())


def test_what_dali_cannot_decode_is_not_decoded_here_either(tmp_path):
    paths = damaged(tmp_path)
    assert unreadable(paths) == paths and len(paths) == 6
    for path in paths:
        with pytest.raises(UnreadableImage, match=path.name):
            read_picture(path)


def test_folders_are_searched_at_any_depth_and_what_is_no_picture_is_counted(tmp_path):
    make_images(tmp_path / "b", 2)
    make_images(tmp_path / "b" / "deeper", 1, suffix="JPG")
    make_images(tmp_path / ".hidden", 1)
    make_images(tmp_path, 1, first=7)
    for name in ("notes.txt", "more.txt", "._000.png"):
        (tmp_path / "b" / name).write_text("")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    found, skipped = find_pictures([tmp_path / "b" / "001.png", tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "b/001.png",
        "007.png",
        "b/000.png",
        "b/deeper/000.JPG",
    ]
    assert skipped == {
        ".txt": 2,
        "hidden": 2,
        "pipes, devices or broken links": 1,
        "links to folders": 1,
    }


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path):
    make_images(tmp_path, 1)
    odd = tmp_path / ".upload-1"
    (tmp_path / "000.png").rename(odd)
    assert find_pictures([odd]) == ([odd], {})
    assert read_picture(odd).size == (12, 10)


def test_without_a_picture_there_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for given, message in (
        ("nowhere.png", "nowhere.png' does not exist; expected a file or a folder"),
        ("pipe", "pipe' is a pipe or device; expected"),
        (".", r"no pictures: 1 .txt, 1 pipes, devices or broken links left out; expected files"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            find_pictures([tmp_path / given])
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no pictures; expected"):
        find_pictures([])
