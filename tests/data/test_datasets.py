from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edufast.data import Samples, datasets, load_dataset
from edufast.utils.errors import UserError


def make_images(folder, count, first=0, colour=(10, 20, 30), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (12, 10), colour).save(folder / f"{number:03}.{suffix}")


def test_digits():
    digits = load_dataset("digits")
    assert digits.name == "digits" and digits.classes == tuple("0123456789")
    assert digits.train.images.shape == (len(digits.train), 32, 32, 3)
    assert digits.train.images.dtype == np.uint8 and digits.train.images.max() == 255
    assert len(digits.train) + len(digits.val) == 1797
    share = np.bincount(digits.val.labels) / np.bincount(
        np.concatenate([digits.train.labels, digits.val.labels])
    )
    assert np.allclose(share, 0.2, atol=0.01)
    again = load_dataset("digits")
    assert np.array_equal(digits.val.images, again.val.images)
    assert load_dataset("digits", image_size=16).val.images.shape[1:] == (16, 16, 3)


def test_statistics_are_those_of_the_training_pixels():
    digits = load_dataset("digits")  # fewer than 2,000 training samples: all of them count
    pixels = digits.train.images / 255
    assert digits.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert digits.std == pytest.approx(pixels.std(axis=(0, 1, 2)))


def test_folder_with_splits(tmp_path):
    for name in ("cat", "dog"):
        make_images(tmp_path / "train" / name, 3)
        make_images(tmp_path / "val" / name, 2, suffix="jpg")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog") and data.image_size == 224
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path.parent.name for path in data.train.images] == ["cat"] * 3 + ["dog"] * 3
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    assert data.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))
    assert min(data.std) > 0  # all pixels are equal
    assert load_dataset(str(tmp_path), image_size=64).image_size == 64


@pytest.mark.parametrize("name", ["val", "valid", "test"])
def test_names_of_the_validation_folder(tmp_path, name):
    for part in ("train", name):
        make_images(tmp_path / part / "a", 1)
        make_images(tmp_path / part / "b", 1)
    assert len(load_dataset(str(tmp_path), image_size=8).val) == 2


def names(samples):
    return {f"{path.parent.name}/{path.name}" for path in samples.images}


def test_folder_split_is_stratified_and_stable(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / "data" / name, 100)
    data = load_dataset(str(tmp_path / "data"), image_size=8)
    assert names(data.train).isdisjoint(names(data.val))
    assert len(names(data.train) | names(data.val)) == 200
    assert all(10 <= count <= 30 for count in np.bincount(data.val.labels))
    make_images(tmp_path / "data" / "a", 50, first=100)
    grown = load_dataset(str(tmp_path / "data"), image_size=8)
    assert names(data.train) <= names(grown.train) and names(data.val) <= names(grown.val)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = load_dataset(str(tmp_path / "elsewhere"), image_size=8)
    assert names(moved.val) == names(grown.val)


def test_small_classes_are_in_both_splits(tmp_path):
    for name in "abcdef":
        make_images(tmp_path / name, 2)
    data = load_dataset(str(tmp_path), image_size=8)
    assert np.bincount(data.train.labels).tolist() == np.bincount(data.val.labels).tolist()


def test_errors_of_folders(tmp_path):
    def refuses(message):
        with pytest.raises(UserError, match=message):
            load_dataset(str(tmp_path), image_size=8)

    refuses("a folder of images for each class, got none")
    make_images(tmp_path / "a", 2)
    refuses("at least 2 classes, got 1")
    (tmp_path / "b").mkdir()
    refuses("class 'b' has no images")
    make_images(tmp_path / "b", 1)
    refuses("class 'b': expected 2 images to split, got 1")
    make_images(tmp_path / "train" / "a", 1)
    refuses("has train, but none of val, valid, test")
    make_images(tmp_path / "val" / "a", 1)
    make_images(tmp_path / "val" / "c", 1)
    refuses("class 'c' is in val only")
    make_images(tmp_path / "train" / "c", 1)
    (tmp_path / "train" / "a" / "000.png").write_bytes(b"not a PNG")
    refuses(r"image file .*train/a/000\.png: cannot be read or decoded")


def images_of(samples):
    return {image.tobytes() for image in samples.images}


def test_seeds_split_digits_anew_and_seed_0_takes_every_fifth():
    first, second = load_dataset("digits"), load_dataset("digits", seed=1)
    pixels, labels = load_digits(return_X_y=True)
    fifth = np.concatenate([np.flatnonzero(labels == c)[4::5] for c in range(10)])
    darkness = sorted(np.rint(pixels[fifth] * (255 / 16)).astype(int).mean(axis=1))
    small = load_dataset("digits", image_size=8).val.images[..., 0]
    assert sorted(small.mean(axis=(1, 2))) == pytest.approx(darkness)
    assert np.array_equal(np.bincount(first.val.labels), np.bincount(second.val.labels))
    common = images_of(first.val) & images_of(second.val)
    assert len(common) < len(first.val) / 2
    again = load_dataset("digits", seed=1)
    assert np.array_equal(again.val.images, second.val.images)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_holdout_is_a_share_of_every_class_of_training(seed):
    usual = load_dataset("digits", image_size=8, seed=seed)
    held = load_dataset("digits", image_size=8, seed=seed, holdout=0.25)
    assert images_of(held.train) | images_of(held.val) == images_of(usual.train)
    assert images_of(held.train).isdisjoint(images_of(held.val))
    assert images_of(held.val).isdisjoint(images_of(usual.val))  # the test split is left alone
    share = np.bincount(held.val.labels) / np.bincount(usual.train.labels)
    assert np.allclose(share, 0.25, atol=0.01)
    again = load_dataset("digits", image_size=8, seed=seed, holdout=0.25)
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


def test_holdout_and_seed_are_checked(tmp_path):
    for holdout in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"holdout: expected a share in \[0, 1\), got"):
            load_dataset("digits", holdout=holdout)
    with pytest.raises(UserError, match="seed: expected at least 0, got -1"):
        load_dataset("digits", seed=-1)
    make_images(tmp_path / "a", 2)
    make_images(tmp_path / "b", 4)
    with pytest.raises(UserError, match="holdout: class 'a' has one training image; expected 2"):
        load_dataset(str(tmp_path), image_size=8, holdout=0.1)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match="'cifar1000': neither one of digits, glyphs, caltech"):
        load_dataset("cifar1000")
    with pytest.raises(UserError, match="image_size: expected at least 8 pixels, got 0"):
        load_dataset("digits", image_size=0)


def test_a_missing_package_is_named(monkeypatch):
    def missing(seed):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setitem(datasets._EMBEDDED, "digits", missing)
    with pytest.raises(UserError, match=r"'digits' needs sklearn: pip install 'edufast\[train\]'"):
        load_dataset("digits")


def test_samples_check_themselves():
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="labels: expected 2, got 3"):
        Samples(images, np.zeros(3, dtype=np.int64))
    with pytest.raises(TypeError, match="expected int64, got int32"):
        Samples(images, np.zeros(2, dtype=np.int32))
