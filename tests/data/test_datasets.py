"""Any source as a data set: one image size, statistics, a part held out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from edufast.data import DATA_SETS, DataSet, Samples, Splits, load_dataset, register_data_set
from edufast.data.centre_crop import CentreCrop
from edufast.utils.errors import UserError
from tests.data.folders import images_of, make_images, names
from tests.data.odd_pictures import seen_in_validation, write_odd_pictures


def test_statistics_are_those_of_the_training_pixels():
    digits = load_dataset("digits")  # fewer than 2,000 training samples: all of them count
    pixels = digits.train.images / 255
    assert digits.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert digits.std == pytest.approx(pixels.std(axis=(0, 1, 2)))


@pytest.mark.parametrize("seed", [0, 3])
def test_the_holdout_is_a_share_of_every_class_of_training(seed):
    usual = load_dataset("digits", image_size=8, seed=seed)
    held = load_dataset("digits", image_size=8, seed=seed, holdout=0.25)
    assert images_of(held.train) | images_of(held.val) == images_of(usual.train)
    assert images_of(held.train).isdisjoint(images_of(held.val))
    assert images_of(held.val).isdisjoint(images_of(usual.val))  # the test split is left alone
    share = np.bincount(held.val.labels) / np.bincount(usual.train.labels)
    assert np.allclose(share, 0.25, atol=0.01)
    again = load_dataset("digits", image_size=8, seed=seed, holdout=np.float32(0.25))
    assert np.array_equal(held.val.images, again.val.images)
    assert held.mean == pytest.approx((held.train.images / 255).mean(axis=(0, 1, 2)))


def test_the_seed_chooses_the_holdout_and_the_split_of_folders(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / name, 40)
    usual = load_dataset(str(tmp_path), image_size=8)
    assert names(load_dataset(str(tmp_path), image_size=8, seed=1).val) != names(usual.val)
    held = load_dataset(str(tmp_path), image_size=8, holdout=0.5)
    assert names(held.train) | names(held.val) == names(usual.train)
    assert names(held.train).isdisjoint(names(held.val))
    shutil.move(tmp_path / "a", tmp_path / "train" / "a")
    shutil.move(tmp_path / "b", tmp_path / "train" / "b")
    make_images(tmp_path / "test" / "a", 1)
    first, second = (
        load_dataset(str(tmp_path), image_size=8, holdout=0.5, seed=seed) for seed in (0, 1)
    )
    assert names(first.val) != names(second.val) and len(first.val) == len(second.val) == 40


def test_arguments_are_checked(tmp_path):
    for holdout in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"holdout: expected a share in \[0, 1\), got"):
            load_dataset("digits", holdout=holdout)
    with pytest.raises(UserError, match="seed: expected at least 0, got -1"):
        load_dataset("digits", seed=-1)
    for size in (-1, 0):
        with pytest.raises(UserError, match=f"image_size: expected at least 8 pixels, got {size}"):
            load_dataset("digits", image_size=size)
    make_images(tmp_path / "a", 2)
    make_images(tmp_path / "b", 4)
    with pytest.raises(UserError, match="holdout: class 'a' has one training image; expected 2"):
        load_dataset(str(tmp_path), image_size=8, holdout=0.1)


def test_a_missing_package_is_named(monkeypatch):
    def missing(seed):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setitem(DATA_SETS._entries, "digits", missing)
    line = r"data source 'digits' needs scikit-learn: pip install 'edufast\[train\]'"
    with pytest.raises(UserError, match=line):
        load_dataset("digits")


# --- users' own: see test_sources.py for how they are found ------------------------------------


@pytest.fixture
def registrations_are_forgotten(monkeypatch):
    monkeypatch.setattr(DATA_SETS, "_entries", dict(DATA_SETS._entries))


def split(count, size, value=100):
    images = np.full((2 * count, *size, 3), value, dtype=np.uint8)
    images[::2] += 50
    return Samples(images, np.arange(2 * count) % 2)


@pytest.mark.usefixtures("registrations_are_forgotten")
def test_splits_of_ones_own_get_a_size_and_statistics():
    @register_data_set("squares")
    def squares(seed):
        return Splits(["light", "dark"], split(6, (20, 12), 100 + seed), split(2, (20, 12)))

    data = load_dataset("squares", seed=3)
    assert data.name == "squares" and data.classes == ("light", "dark")
    assert data.image_size == 20  # the longer side
    assert data.train.images.shape == (12, 20, 20, 3) and len(data.val) == 4
    assert data.mean == pytest.approx([(103 + 25) / 255] * 3)
    assert data.std == pytest.approx([25 / 255] * 3)
    assert load_dataset("squares", image_size=8).train.images.shape == (12, 8, 8, 3)
    held = load_dataset("squares", holdout=0.5)
    assert len(held.train) == len(held.val) == 6


@pytest.mark.usefixtures("registrations_are_forgotten")
def test_a_data_set_of_ones_own_keeps_the_size_and_statistics_it_has():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

    @register_data_set("known")
    def known(seed):
        train, val = split(6, (16, 16)), split(2, (16, 16))
        return DataSet("any name", ("a", "b"), train, val, 24, mean, std)

    data = load_dataset("known")
    assert (data.name, data.image_size, data.mean, data.std) == ("known", 24, mean, std)
    assert data.train.images.shape == (12, 24, 24, 3)
    other = load_dataset("known", image_size=8, holdout=0.5)
    assert (other.image_size, len(other.val), other.mean) == (8, 6, mean)


@pytest.mark.usefixtures("registrations_are_forgotten")
def test_files_of_ones_own_are_photographs(tmp_path):
    make_images(tmp_path, 4)
    files = tuple(sorted(tmp_path.iterdir()))

    @register_data_set("pictures")
    def pictures(seed):
        labels = np.array([0, 1])
        return Splits(("a", "b"), Samples(files[:2], labels), Samples(files[2:], labels))

    data = load_dataset("pictures")
    assert data.image_size == 224 and data.train.images == files[:2]
    assert data.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))


@pytest.mark.usefixtures("registrations_are_forgotten")
def test_without_a_validation_split_a_part_must_be_held_out():
    @register_data_set("half")
    def half(seed):
        return Splits(("a", "b"), split(6, (8, 8)), split(0, (8, 8)))

    with pytest.raises(UserError, match="'half': val is empty; expected a holdout above 0"):
        load_dataset("half")
    assert len(load_dataset("half", holdout=0.25).val) == 4


@pytest.mark.usefixtures("registrations_are_forgotten")
@pytest.mark.parametrize(("shape", "size"), [((128, 128), None), ((10, 16), None), ((64, 64), 160)])
def test_arrays_are_validated_as_their_pictures_are_predicted(shape, size):
    """By the rule that exported files state."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, *shape, 3), dtype=np.uint8)

    @register_data_set("noise")
    def noise(seed):
        return Splits(["a", "b"], *[Samples(images, np.arange(4) % 2)] * 2)

    data = load_dataset("noise", image_size=size)
    rule = CentreCrop.to(data.image_size, data.image_size)
    for seen, image in zip(data.val.images, images, strict=True):
        assert np.array_equal(seen, rule(Image.fromarray(image)))


@pytest.mark.parametrize("kind", ["deep.png", "deep.pgm", "float.tif", "turned6.jpg"])
def test_statistics_are_those_of_what_is_seen(kind, tmp_path):
    path = next(p for p in write_odd_pictures(tmp_path / "all") if p.name == kind)
    for name in ("p/a/1", "p/a/2", "p/a/3", "p/b/1", "p/b/2", "p/b/3"):
        copy = tmp_path / f"{name}{path.suffix if path.suffix != '.pgm' else '.ppm'}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    data = load_dataset(tmp_path / "p", image_size=48)
    seen = seen_in_validation(path, 48) / 255
    assert np.abs(seen.mean((0, 1)) - data.mean).max() < 0.02
    assert np.abs(seen.std((0, 1)) - data.std).max() < 0.03


def test_a_size_beyond_the_memory_is_told(monkeypatch):
    empty = np.empty

    def limited(shape, *rest, **named):
        if np.prod(shape) > 1e9:
            raise MemoryError
        return empty(shape, *rest, **named)

    monkeypatch.setattr(np, "empty", limited)
    message = (
        r"^image_size: 1442 images of 4096 x 4096 pixels take 73 GB of memory, more than there"
    )
    with pytest.raises(UserError, match=message):
        load_dataset("digits", image_size=4096)
