"""The view of validation, made without DALI."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from edufast.data.centre_crop import CentreCrop
from tests.data.odd_pictures import seen_in_validation, smooth

SIZES = [(16, 16), (5, 7), (34, 32), (35, 32), (48, 33), (61, 64), (100, 143), (37, 301)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [32, 128])
def test_it_is_what_dali_makes_of_a_picture(height, width, size, tmp_path):
    """Also where an odd number of pixels is cut off, and where a picture is enlarged."""
    for number, picture in enumerate((smooth(height, width), smooth(width, height, 1))):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        made = CentreCrop.to(size, size)(picture)
        assert made.shape == (size, size, 3) and made.dtype == np.uint8
        difference = np.abs(made - seen_in_validation(path, size))
        assert difference[1:-1, 1:-1].max() <= 1 and difference.max() <= 2


def test_pictures_made_many_times_smaller_differ_at_their_rim_only(tmp_path):
    picture = smooth(301, 402)
    picture.save(tmp_path / "a.png")
    difference = np.abs(CentreCrop.to(32, 32)(picture) - seen_in_validation(tmp_path / "a.png", 32))
    assert difference[1:-1].max() <= 1 and difference.mean() < 1


def test_a_single_pixel_that_is_cut_off_moves_the_view_by_a_quarter_of_one_at_most(tmp_path):
    picture = smooth(40, 41)
    picture.save(tmp_path / "a.png")
    difference = np.abs(CentreCrop.to(32, 32)(picture) - seen_in_validation(tmp_path / "a.png", 32))
    assert 0 < difference.mean() < 4


def test_small_views_are_whole_and_large_ones_lose_their_rim():
    assert CentreCrop.to(32, 32) == CentreCrop((32, 32), (32, 32))
    assert CentreCrop.to(224, 224) == CentreCrop((256, 256), (224, 224))
    assert CentreCrop.to(12, 16) == CentreCrop((12, 16), (12, 16))


def test_an_oblong_view_keeps_the_aspect_ratio():
    """A white square in the middle stays one."""
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[40:80, 40:80] = 255
    seen = CentreCrop.to(30, 60)(Image.fromarray(pixels))[..., 0] > 127
    assert seen.shape == (30, 60)
    assert seen.any(axis=1).sum() == seen.any(axis=0).sum() == 20


def test_the_rule_goes_through_json():
    rule = CentreCrop.to(160, 224)
    said = json.loads(json.dumps(rule.to_dict()))
    assert CentreCrop.from_dict(said) == rule
    assert said["filter"] == "bilinear, antialiased" and said["position"] == "centre"


@pytest.mark.parametrize(
    "said",
    [{}, {"cover": [8, 8]}, {"cover": [8], "crop": [8]}, {"cover": [8, 8], "crop": [9, 8]}, [1]],
)
def test_what_is_no_rule_is_refused(said):
    with pytest.raises((KeyError, TypeError, ValueError)):
        CentreCrop.from_dict(said)
