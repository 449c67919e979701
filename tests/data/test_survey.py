"""What is told of a data set before anything is trained on it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from edufast.data import load_dataset
from edufast.data.survey import Sizes, overview, survey
from edufast.utils.errors import UserError
from tests.data.folders import make_pictures
from tests.data.packed import samples, write_tar


@pytest.fixture
def pictures(tmp_path):
    """Splits with everything that can be wrong."""
    for part, name, count in (
        ("train", "cat", 9),
        ("train", "dog", 3),
        ("train", "emu", 6),
        ("test", "cat", 4),
        ("test", "dog", 5),
    ):
        make_pictures(tmp_path / part / name, count)
    train, test = tmp_path / "train", tmp_path / "test"
    Image.new("RGB", (3, 2)).save(train / "cat" / "small.png")
    Image.new("RGB", (400, 300)).save(test / "dog" / "large.png")
    shutil.copy(train / "cat" / "000.png", train / "cat" / "copy.png")
    shutil.copy(train / "cat" / "001.png", train / "dog" / "cat.png")
    shutil.copy(train / "emu" / "002.png", test / "dog" / "leak.png")
    (train / "dog" / "bad.jpg").write_bytes(b"no picture")
    (test / "cat" / "empty.png").write_bytes(b"")
    (test / "cat" / "empty too.png").write_bytes(b"")
    (train / "emu" / "notes.txt").write_bytes(b"")
    (train / "emu" / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_everything_is_found_once(pictures, recwarn):
    found = survey(str(pictures))
    assert found.layout == "train and test, each with a folder of images for each class"
    assert found.counts == {"cat": (11, 6), "dog": (5, 7), "emu": (6, 0)}
    assert found.imbalance == 11 / 5 and found.image_size == 224
    assert found.decided_sizes == [10]
    assert found.sizes == Sizes((3, 2), (12, 10), (400, 300), 32)
    assert found.left_out == {".txt": 1, "hidden": 1}
    bad = ["train/dog/bad.jpg", "test/cat/empty too.png", "test/cat/empty.png"]
    assert found.unreadable == [pictures / name for name in bad]
    assert found.copies == {"train": 2, "val": 0}
    assert (found.leaked, found.contradictions) == (1, 2)
    assert not [w for w in recwarn if "left out" in str(w.message)]


def test_a_survey_goes_through_json(pictures):
    said = json.loads(json.dumps(survey(str(pictures)).to_dict()))
    assert said["classes"]["dog"] == {"train": 5, "val": 7}
    assert said["sizes"]["median"] == [12, 10] and said["imbalance"] == 2.2
    assert said["unreadable"][0] == str(pictures / "train/dog/bad.jpg")
    groups = said["duplicates"].pop("groups")
    assert said["duplicates"] == {
        "train": 2,
        "val": 0,
        "val_in_train": 1,
        "in_several_classes": 2,
    }
    assert groups[-1] == [
        {"split": "train", "class": "emu", "image": str(pictures / "train/emu/002.png")},
        {"split": "val", "class": "dog", "image": str(pictures / "test/dog/leak.png")},
    ]


def test_class_folders_are_split_as_a_run_splits_them(tmp_path):
    make_pictures(tmp_path / "a", 20)
    make_pictures(tmp_path / "b", 5)
    found, data = survey(str(tmp_path)), load_dataset(str(tmp_path), image_size=16)
    assert "about a fifth of each is for validation" in found.layout
    assert found.train.images == data.train.images and found.val.images == data.val.images
    assert not found.unreadable and not found.duplicates and not found.left_out


def test_arrays_have_one_size_and_are_compared_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 9, 3), dtype=np.uint8)
    images[6] = images[1]
    for name, part in (("train", slice(5)), ("test", slice(5, 8))):
        labels = np.arange(8)[part] % 2
        np.savez(tmp_path / name, images=images[part], labels=labels, class_names=["a", "b"])
    found = survey(f"arrays:{tmp_path}")
    assert found.sizes == Sizes((9, 6), (9, 6), (9, 6), 8) and found.image_size == 9
    assert found.leaked == 1 and found.contradictions == 1 and found.unreadable == []
    assert found.to_dict()["duplicates"]["groups"][0][0] == {
        "split": "train",
        "class": "b",
        "image": 1,
    }


def test_a_data_set_of_the_package_says_where_it_comes_from():
    found = survey("digits")
    assert found.layout == "digits, comes with scikit-learn"
    assert len(found.train) + len(found.val) == 1797 and found.image_size == 32


def test_what_is_no_data_set_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="data source is 'nothing'"):
        survey("nothing")
    with pytest.raises(UserError, match="expected a folder of images for each class, got none"):
        survey(str(tmp_path))


def test_an_overview_counts_without_decoding(pictures):
    """What is corrupt counts: that is not noticed."""
    found = overview(str(pictures))
    assert found.classes == 3 and found.counts == [11, 5, 6] and found.files
    assert found.imbalance == 11 / 5 and found.side == 10


def test_an_overview_leaves_out_what_a_run_leaves_out(pictures, recwarn):
    """As they are listed; the run says how many they are."""
    listed = pictures / "list.csv"
    listed.write_text("picture\ntrain/cat/copy.png\ntrain/emu/000.png\ntest/dog/large.png\n")
    found = overview(str(pictures), leave_out=listed)
    assert found.counts == [10, 5, 5] and len(found.train) == 20
    data = load_dataset(str(pictures), on_error="skip", leave_out=listed, image_size=8)
    assert len(data.train) == 19, "but for the one that is corrupt"
    assert len([w for w in recwarn if "list.csv names" in str(w.message)]) == 1


def test_pictures_in_archives_are_looked_at_as_others_are(tmp_path, cache):
    """A corrupt one of each split, and one that is in both."""
    for split, first in (("train", 0), ("val", 20)):
        bad = [("bad.cls", b"dog"), ("bad.jpg", b"\xff\xd8 no picture")]
        write_tar(tmp_path / "set" / f"{split}-0.tar", [*samples(6, first), *bad, *samples(1, 50)])
    found = survey(str(tmp_path / "set"))
    assert found.layout == "tar shards, as of WebDataset"
    assert found.counts == {"cat": (4, 4), "dog": (4, 4)} and found.image_size == 224
    assert found.sizes == Sizes((12, 10), (12, 10), (12, 10), 14)
    assert [path.parent.name for path in found.unreadable] == ["train-0.tar", "val-0.tar"]
    assert (found.leaked, found.contradictions) == (1, 0)


def test_an_overview_leaves_out_what_is_held_out(pictures):
    assert overview(str(pictures), holdout=0.5).counts == [5, 3, 3]


def test_an_overview_of_arrays_has_their_size():
    found = overview("digits")
    assert not found.files and found.side == 8 and found.classes == 10
