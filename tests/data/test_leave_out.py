"""Lists of pictures to leave out: what is put on them, and what a data set is without it."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("nvidia.dali")
from edufast.data import load_dataset
from edufast.data.duplicates import Place
from edufast.data.leave_out import faults, leave_out, read_list, write_list
from edufast.data.sources import read
from edufast.data.survey import survey
from edufast.utils.errors import UserError
from tests.data.folders import make_pictures, names


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes; a corrupt picture, one in a class twice and in validation, one in both."""
    root = tmp_path / "pictures"
    for split, count in (("train", 8), ("val", 3)):
        for number, name in enumerate(("cat", "dog")):
            make_pictures(root / split / name, count + number)
    (root / "train" / "cat" / "bad.png").write_bytes(b"no picture")
    for copy in ("train/cat/copy.png", "val/cat/copy.png"):
        shutil.copy(root / "train" / "cat" / "000.png", root / copy)
    shutil.copy(root / "train" / "cat" / "001.png", root / "train" / "dog" / "cat.png")
    return root


BAD = {
    "train/cat/bad.png", "train/cat/copy.png", "val/cat/copy.png", "train/cat/001.png",
    "train/dog/cat.png",
}  # fmt: skip


def listed(pictures: Path) -> dict[Path, str]:
    found = survey(str(pictures))
    return faults(found.unreadable, found.duplicates)


def test_what_is_corrupt_twice_or_in_two_classes_is_listed(pictures: Path) -> None:
    found = {str(path.relative_to(pictures)): reason for path, reason in listed(pictures).items()}
    assert found == {
        "train/cat/bad.png": "corrupt",
        "train/cat/copy.png": f"the same as: {pictures}/train/cat/000.png",
        "val/cat/copy.png": f"the same as: {pictures}/train/cat/000.png",
        "train/cat/001.png": f"in another class, too: {pictures}/train/dog/cat.png",
        "train/dog/cat.png": f"in another class, too: {pictures}/train/cat/001.png",
    }


def test_a_copy_for_training_is_kept_rather_than_one_for_validation() -> None:
    first, second = Path("val.png"), Path("train.png")
    group = [Place("val", 0, first), Place("train", 0, second)]
    assert faults([], [group]) == {first: f"the same as: {second}"}
    assert faults([], [[Place("train", 0, 3), Place("val", 0, 5)]]) == {}  # of arrays


def test_a_run_is_without_them_and_the_others_stay_where_they_are(
    pictures: Path, tmp_path: Path
) -> None:
    before = read(str(pictures), 0)
    write_list(tmp_path / "list.csv", listed(pictures))
    with pytest.warns(UserWarning, match=r"23 image files are used, 5 left out, which .*list\.csv"):
        data = load_dataset(pictures, image_size=8, leave_out=tmp_path / "list.csv")
    for now, then in ((data.train, before.train), (data.val, before.val)):
        kept = [p for p in then.images if str(p.relative_to(pictures)) not in BAD]
        assert list(now.images) == kept


def test_a_list_may_be_edited_and_names_files_from_its_folder(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pictures.parent / "list.csv"
    path.write_text("picture\npictures/train/cat/bad.png\n\npictures/gone.png\n")
    monkeypatch.chdir(pictures)
    source = os.path.relpath(pictures)
    with pytest.warns(UserWarning, match="1 left out"):
        splits = leave_out(read(source, 0), Path("../list.csv"), source)
    assert "cat/bad.png" not in names(splits.train) and "cat/copy.png" in names(splits.train)


def test_a_list_saved_by_a_spreadsheet_is_read(pictures: Path) -> None:
    path = pictures.parent / "list.csv"
    path.write_text("picture,reason\npictures/train/cat/bad.png,\n", encoding="utf-8-sig")
    assert read_list(path) == {pictures / "train/cat/bad.png"}


def test_odd_names_come_back_as_they_were(tmp_path: Path) -> None:
    odd = [tmp_path / 'a,"b"\n.png', Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png"))]
    write_list(tmp_path / "list.csv", dict.fromkeys(odd, "corrupt"))
    assert read_list(tmp_path / "list.csv") == set(odd)
    with open(tmp_path / "list.csv", newline="", errors="surrogateescape") as file:
        assert next(csv.reader(file)) == ["picture", "reason"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"begins with \[\]; expected the columns \['picture', 'reason'\]"),
        ('picture\npictures/train/cat/bad.png\n"pictures/train/cat/copy.png\n',
         "cannot be read as a CSV file: unexpected end of data"),
        ("a.png\n", r"begins with \['a.png'\]; expected the columns \['picture', 'reason'\]"),
        ("picture\nother.png\n", r"no picture that .*list\.csv names is in '.*pictures'"),
        ("picture\n" + "".join(f"pictures/train/cat/00{i}.png\n" for i in range(8))
         + "pictures/train/cat/bad.png\npictures/train/cat/copy.png\n",
         r"no training image of class 'cat' is left by .*list\.csv"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_these_pictures_is_told(
    pictures: Path, content: str, message: str
) -> None:
    path = pictures.parent / "list.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        leave_out(read(str(pictures), 0), path, str(pictures))
    with pytest.raises(UserError, match=r"none\.csv cannot be read"):
        leave_out(read(str(pictures), 0), pictures / "none.csv", str(pictures))
