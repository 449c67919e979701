"""The contact sheet shows every class, a row each."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edufast.data.contact_sheet import check_path, write_contact_sheet
from edufast.data.samples import Samples
from edufast.utils.errors import UserError
from tests.data.folders import make_images

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def shown(sheet: np.ndarray, row: int, colour: tuple[int, int, int]) -> int:
    """How many pictures of ``colour`` are in a row of the sheet."""
    part = sheet[4 + row * 100 :][:96]
    return round((np.abs(part - colour).max(2) < 4).sum() / 96**2)


def test_a_row_shows_at_most_eight_pictures_of_its_class(tmp_path):
    counts = [3, 20, 1]
    paths = []
    for label, (colour, count) in enumerate(zip(COLOURS, counts, strict=True)):
        make_images(tmp_path / str(label), count, colour=colour)
        paths += sorted((tmp_path / str(label)).iterdir())
    samples = Samples(tuple(paths), np.repeat(np.arange(3), counts))
    paths[1].write_bytes(b"no picture")
    write_contact_sheet(tmp_path / "s.png", samples, ["a", "Ωδ", "long" * 40], {paths[1]})
    sheet = pixels(tmp_path / "s.png")
    assert [shown(sheet, row, COLOURS[row]) for row in range(3)] == [2, 8, 1]
    assert shown(sheet, 0, COLOURS[1]) == 0
    names = sheet[:, : sheet.shape[1] - 800].min(2) < 100
    for row in range(3):
        assert names[row * 100 :][:100].any()


def test_arrays_are_shown_too(tmp_path):
    images = np.stack([np.full((20, 30, 3), colour, np.uint8) for colour in COLOURS[:2]])
    write_contact_sheet(tmp_path / "s.png", Samples(images, np.array([1, 0])), ["a", "b"])
    sheet = pixels(tmp_path / "s.png")
    assert shown(sheet, 0, COLOURS[1]) == shown(sheet, 1, COLOURS[0]) == 1


def test_another_name_than_of_a_png_file_is_refused(tmp_path):
    check_path(tmp_path / "a.PNG")
    with pytest.raises(UserError, match=r"--contact-sheet is 'a.jpg'; expected a name that ends"):
        check_path(type(tmp_path)("a.jpg"))
