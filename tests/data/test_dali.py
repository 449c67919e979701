"""Image files, and what else DALI alone does.

Red counts the columns, green the rows, so that a pixel says where it comes from.
"""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from edufast.data import Augment, Samples, draw_views
from edufast.data.centre_crop import CENTRE_SHARE
from edufast.utils.errors import UserError
from tests.data.loading import RNG, make, pixels, same


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, (height, width) in enumerate([(100, 200), (240, 120), (128, 128)]):
        rows, columns = np.mgrid[:height, :width].astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1)).save(path)
        paths.append(path)
    return Samples(tuple(paths), np.arange(3, dtype=np.int64))


PLAIN = {"mean": (0, 0, 0), "std": (1 / 255, 1 / 255, 1 / 255)}


def test_files_are_decoded_exactly_and_cropped_at_the_centre(tmp_path):
    image = RNG.integers(0, 256, size=(16, 20, 3), dtype=np.uint8)
    grey = RNG.integers(0, 256, size=(16, 16), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "colour ü.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    paths = tmp_path / "colour ü.png", tmp_path / "grey.png"
    (batch,) = make(Samples(paths, np.zeros(2, dtype=np.int64))).epoch(0)
    assert np.array_equal(pixels(batch.images)[0], image[:, 2:18])
    assert np.array_equal(pixels(batch.images)[1], np.stack([grey] * 3, axis=-1))


def test_large_files_lose_their_rim_at_validation(files):
    (batch,) = make(files, image_size=160, **PLAIN).epoch(0)
    shown = batch.images[2, 0, 80]  # the middle row of the square image
    assert (shown[-1] - shown[0]).item() == pytest.approx(128 * CENTRE_SHARE, abs=2)
    assert shown.mean().item() == pytest.approx(63.5, abs=1)


def test_resizing_agrees_with_pillow(tmp_path):
    """Interpolation and antialiasing as in torchvision, which resizes with Pillow."""
    rough = RNG.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((500, 376), Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.png")
    small = image.resize((340, 256), Image.Resampling.BILINEAR).crop((58, 16, 282, 240))
    samples = Samples((tmp_path / "image.png",), np.zeros(1, dtype=np.int64))
    (batch,) = make(samples, image_size=224, **PLAIN).epoch(0)
    shown = batch.images[0].permute(1, 2, 0).numpy()
    assert np.abs(shown - np.asarray(small)).mean() < 1


def test_files_can_be_shifted_and_flipped_like_arrays(files):
    augment = Augment(pad=4)
    plain = next(make(files, image_size=32).epoch(0))
    (batch,) = make(files, image_size=32, augment=augment, seed=5).epoch(0)
    views = draw_views(augment, np.arange(3), seed=5, epoch=0, iteration=0)
    padded = np.pad(pixels(plain.images), ((0, 0), (4, 4), (4, 4), (0, 0)))
    for i, ((y, x), flip) in enumerate(zip(views.shift, views.flip, strict=True)):
        view = padded[i, 4 + y : 36 + y, 4 + x : 36 + x]
        assert np.array_equal(pixels(batch.images)[i], view[:, ::-1] if flip else view)


def test_random_resized_crops_show_the_box_drawn(files):
    augment = Augment(random_resized_crop=(0.2, 0.9))
    loader = make(files, image_size=32, augment=augment, seed=7, **PLAIN)
    for epoch in range(8):
        (batch,) = loader.epoch(epoch)
        views = draw_views(augment, np.arange(3), seed=7, epoch=epoch, iteration=0)
        for path, image, flip, box in zip(
            files.images, batch.images, views.flip, views.box, strict=True
        ):
            width, height = Image.open(path).size
            area, ratio, y, x = box.astype(float)
            box_width = min(width, np.sqrt(area * width * height * ratio))
            box_height = min(height, np.sqrt(area * width * height / ratio))
            left, top = (width - box_width) * x, (height - box_height) * y
            shown = image.flip(2) if flip else image
            assert shown[0].mean().item() == pytest.approx(left + box_width / 2 - 0.5, abs=1)
            assert shown[1].mean().item() == pytest.approx(top + box_height / 2 - 0.5, abs=1)
            step_x, step_y = box_width / 32, box_height / 32
            assert (shown[0, 0, 24] - shown[0, 0, 8]).item() == pytest.approx(16 * step_x, abs=2)
            assert (shown[1, 24, 0] - shown[1, 8, 0]).item() == pytest.approx(16 * step_y, abs=2)


def test_epochs_of_files_resume_and_repeat(files):
    augment = Augment(random_resized_crop=(0.1, 1.0))
    loader = make(files, image_size=32, augment=augment, batch_size=1)
    first = list(loader.epoch(0))
    assert same(first, loader.epoch(0))
    assert same(first[1:], make(files, image_size=32, augment=augment, batch_size=1).epoch(0, 1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not an image"),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["text", "truncated", "empty", "missing"],
)
@pytest.mark.parametrize("augment", [None, Augment(random_resized_crop=(0.1, 1.0))])
@pytest.mark.parametrize("batch_size", [1, 3])  # the culprit in a later batch, or in the first
def test_a_corrupt_file_is_named_and_the_loader_survives(files, damage, augment, batch_size):
    loader = make(files, image_size=32, augment=augment, batch_size=batch_size)
    first = list(loader.epoch(0))
    good = files.images[1].read_bytes()
    damage(files.images[1])
    with pytest.raises(UserError, match=rf"image file .*{files.images[1].name}: cannot be read"):
        list(loader.epoch(0))
    files.images[1].write_bytes(good)
    assert same(first, loader.epoch(0))


def test_a_failure_in_an_abandoned_epoch_does_not_reach_the_next(files):
    loader = make(files, image_size=32, batch_size=1)
    first = list(loader.epoch(0))
    good = files.images[1].read_bytes()
    files.images[1].write_bytes(b"not an image")
    next(loader.epoch(0))
    files.images[1].write_bytes(good)
    assert same(first, loader.epoch(0))


def test_views_that_cannot_be_counted_have_no_number(files):
    augment = Augment(random_resized_crop=(0.1, 1.0))
    assert next(make(files, image_size=32, augment=augment).epoch(0)).views is None
    augment = Augment(random_resized_crop=(0.1, 1.0), replay=2)
    loader = make(files, image_size=32, augment=augment, batch_size=3)
    shown = {}
    for epoch in range(12):
        (batch,) = loader.epoch(epoch)
        for view, image in zip(batch.views.tolist(), batch.images, strict=True):
            assert torch.equal(shown.setdefault(view, image), image)
    assert len(shown) == 6


@pytest.mark.parametrize("batches", [None, 1])  # all of an epoch, or not
def test_a_loader_goes_at_once_with_its_pipeline(files, batches):
    loader = make(files, image_size=32, batch_size=1)
    list(itertools.islice(loader.epoch(0), batches))
    gone = weakref.ref(loader), weakref.ref(loader._maker._pipeline)
    del loader
    assert [reference() for reference in gone] == [None, None]
