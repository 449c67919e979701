"""Images of a split as exported files take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edufast.data import Samples
from edufast.data.centre_crop import CentreCrop
from edufast.data.image_files import UnreadableImage
from edufast.edge.split_images import SplitImages
from tests.data.odd_pictures import smooth
from tests.tiny import tiny_data

VAL = tiny_data().val
INDEX = np.array([7, 3, 40, 41, 0])


def test_arrays_are_given_as_they_are_in_the_order_of_the_index() -> None:
    images = SplitImages(VAL, INDEX, 16)
    assert len(images) == 5
    np.testing.assert_array_equal(images[1:4], VAL.images[[3, 40, 41]])


def test_arrays_of_another_size_are_resized_as_a_whole() -> None:
    images = SplitImages(VAL, INDEX, 8)
    for image, original in zip(images[:], VAL.images[INDEX], strict=True):
        whole = Image.fromarray(original).resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, np.asarray(whole))


@pytest.mark.parametrize("kept", [2**29, 0])
def test_files_are_cropped_and_resized_as_in_validation_also_out_of_order(
    kept: int, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("edufast.edge.split_images._KEPT", kept)
    paths: list[Path] = []
    for number, (height, width) in enumerate([(40, 61), (70, 33), (24, 24), (30, 90)] * 10):
        paths.append(tmp_path / f"{number}.png")
        smooth(height, width, number).save(paths[-1])
    samples = Samples(tuple(paths), np.zeros(40, np.int64))
    images = SplitImages(samples, np.arange(40), 16)
    whole = images[:]  # more than a batch
    assert whole.shape == (40, 16, 16, 3) and whole.dtype == np.uint8
    rule = CentreCrop.to(16, 16)
    for path, image in zip(paths, whole, strict=True):
        expected = rule(Image.open(path).convert("RGB")).astype(int)
        assert abs(image.astype(int) - expected).mean() < 1
    for part in (slice(3, 5), slice(0, 1), slice(33, 40), slice(3, 5)):
        np.testing.assert_array_equal(images[part], whole[part])


def test_files_are_decoded_once_where_they_fit(tmp_path, monkeypatch) -> None:
    for number in range(40):
        smooth(24, 24, number).save(tmp_path / f"{number}.png")
    samples = Samples(tuple(sorted(tmp_path.iterdir())), np.zeros(40, np.int64))
    monkeypatch.setattr("edufast.edge.split_images._KEPT", 40 * 16 * 16 * 3)
    images = SplitImages(samples, np.arange(40), 16)
    first, too_many = images[:1], SplitImages(samples, np.arange(40), 17)
    for path in samples.images:
        path.unlink()
    assert len(images[:]) == 40
    np.testing.assert_array_equal(images[:1], first)
    with pytest.raises(UnreadableImage):
        too_many[:1]


def test_a_file_that_cannot_be_decoded_is_named(tmp_path) -> None:
    (tmp_path / "torn.png").write_bytes(b"no picture")
    images = SplitImages(Samples((tmp_path / "torn.png",), np.zeros(1, np.int64)), np.arange(1), 16)
    with pytest.raises(UnreadableImage, match=r"torn\.png"):
        images[:1]
