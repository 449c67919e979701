"""Folders of images, one folder a class: splits, stability, errors."""

from __future__ import annotations

import os
import shutil
import warnings

import numpy as np
import pytest

from edufast.data import load_dataset
from edufast.data.folder import file_samples, folder, position
from edufast.utils.errors import UserError
from tests.data.folders import make_images, names


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
    refuses("has train, but none of val, valid, validation, test")
    make_images(tmp_path / "val" / "a", 1)
    make_images(tmp_path / "val" / "c", 1)
    refuses("class 'c' is in validation only")
    make_images(tmp_path / "train" / "c", 1)
    (tmp_path / "train" / "a" / "000.png").write_bytes(b"not a PNG")
    refuses(r"image file .*train/a/000\.png: cannot be read or decoded")


def test_files_of_each_class_in_turn_are_a_split(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    samples = file_samples([paths[:2], [], paths[2:]])
    assert samples.images == tuple(paths) and samples.labels.tolist() == [0, 0, 2]
    assert samples.labels.dtype == np.int64


def test_the_place_of_a_file_in_a_random_order_depends_on_its_name_and_the_seed(tmp_path):
    paths = [tmp_path / "cat" / f"{number}.png" for number in range(300)]
    places = [position(path, 0) for path in paths]
    assert places == [position(tmp_path / "elsewhere" / "cat" / p.name, 0) for p in paths]
    assert min(places) >= 0 and max(places) < 1 and abs(np.mean(places) - 0.5) < 0.06
    others = [position(path, 1) for path in paths]
    assert abs(np.corrcoef(places, others)[0, 1]) < 0.2
    assert position(tmp_path / "dog" / "0.png", 0) != places[0]


def test_a_hidden_folder_and_other_files_are_not_looked_at(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / name, 2)
        (tmp_path / name / "notes.txt").write_text("")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").write_text("")
    splits = folder(tmp_path)
    assert splits.classes == ("a", "b") and len(splits.train) + len(splits.val) == 4


@pytest.mark.parametrize("parts", [("train", "val"), (".",)])
def test_what_is_no_picture_is_left_out_and_counted_in_one_line(tmp_path, parts):
    for part in parts:
        for name in ("a", "b"):
            make_images(tmp_path / part / name, 2)
    odd = tmp_path / parts[0] / "a"
    os.mkfifo(odd / "pipe.png")
    (odd / "broken.png").symlink_to("nowhere.png")
    (odd / "itself.png").symlink_to("itself.png")
    make_images(odd / "folder.jpg", 1)
    make_images(odd / "nested", 3)
    for name in ("x.gif", "y.GIF", "z.jfif", "notes", "._000.png", ".hidden.png"):
        (odd / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="left out") as caught:
        splits = folder(tmp_path)
    (message,) = [str(warning.message) for warning in caught]
    used = 4 * len(parts)
    assert (
        f"{used} images are used, 11 entries left out: 2 .gif, 1 .jfif, 2 folders, 2 hid" in message
    )
    assert "3 pipes, devices or broken links, 1 without a suffix; expected .bmp," in message
    assert names(splits.train) | names(splits.val) == {
        f"{name}/{number:03}.png" for name in "ab" for number in range(2)
    }


def test_a_folder_of_pictures_only_gives_no_warning(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / name, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder(tmp_path)


def test_a_class_of_odd_entries_only_has_no_images(tmp_path):
    make_images(tmp_path / "a", 2)
    make_images(tmp_path / "b" / "nested.png", 2)
    os.mkfifo(tmp_path / "b" / "pipe.png")
    message = (
        "class 'b' has no images: its folder holds 1 folders, 1 pipes, devices or broken links; "
        "expected .bmp, "
    )
    with pytest.raises(UserError, match=message):
        folder(tmp_path)


def test_images_beside_the_folders_of_classes_are_counted(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / name, 2)
    make_images(tmp_path, 3)
    (tmp_path / "labels.txt").touch()
    message = "4 images are used, 3 entries left out: 3 images beside the folders of classes; expec"
    with pytest.warns(UserWarning, match=message):
        assert len(folder(tmp_path).train) == 2


def test_so_are_broken_links_in_the_place_of_classes_in_both_splits(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            make_images(tmp_path / split / name, 2)
        make_images(tmp_path / split, 1)
        (tmp_path / split / "c").symlink_to(tmp_path / "unmounted" / "c")
    message = "4 entries left out: 2 broken links beside .* classes, 2 images beside the folders of"
    with pytest.warns(UserWarning, match=message):
        assert folder(tmp_path).classes == ("a", "b")


def test_names_that_are_not_utf8(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / name, 2)
    os.rename(tmp_path / "a" / "000.png", os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    assert len(folder(tmp_path).train) == 2
    os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"class 'caf\\udce9': expected a name in UTF-8") as caught:
        folder(tmp_path)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\x9b2J"])
def test_names_that_would_control_a_terminal(tmp_path, name):
    for each in ("a", "im Bild\u3000\u200d", name):
        make_images(tmp_path / each, 2)
    with pytest.raises(UserError, match="expected a name in UTF-8 without control characters"):
        folder(tmp_path)
    (tmp_path / name).rename(tmp_path / "b")
    assert len(folder(tmp_path).classes) == 3


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        make_images(tmp_path / name, 5)
    assert folder(tmp_path).classes == ("bus", "train")
