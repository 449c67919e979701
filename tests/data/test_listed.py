"""Pictures that are listed one by one; test_manifest.py has what is refused of every list."""

from __future__ import annotations

from pathlib import Path

import pytest

from edufast.data.listed import Listed, listed_splits, used_splits
from edufast.utils.errors import UserError
from tests.data.folders import make_pictures, names


def listed(root: Path, split: str | None) -> list[Listed]:
    for name in ("cat", "dog"):
        make_pictures(root / name, 6)
    return [
        Listed(f"row {number}", path, path.parent.name, split)
        for number, path in enumerate(sorted(root.rglob("*.png")))
    ]


def test_a_fifth_is_chosen_where_no_split_is_named(tmp_path: Path) -> None:
    found = listed_splits("list", listed(tmp_path, None), 0)
    assert found.classes == ("cat", "dog") and len(found.val) >= 2
    assert len(names(found.train) | names(found.val)) == 12


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_splits_have_several_names(name: str, tmp_path: Path) -> None:
    pictures = [
        each._replace(split=name if each.picture.stem == "000" else "train")
        for each in listed(tmp_path, None)
    ]
    assert names(listed_splits("list", pictures, 0).val) == {"cat/000.png", "dog/000.png"}


def test_what_is_wrong_is_told_with_its_place(tmp_path: Path) -> None:
    pictures = listed(tmp_path, "new")
    with pytest.raises(UserError, match="row 0: split is 'new'; expected one of train, val"):
        listed_splits("list", pictures, 0)
    with pytest.raises(UserError, match=r"row 3: '.*gone\.png' is not a file"):
        gone = Listed("row 3", tmp_path / "gone.png", "cat", None)
        listed_splits("list", [gone], 0)
    with pytest.raises(UserError, match="row 1: class ' cat': expected a name without spaces"):
        spaced = pictures[1]._replace(name=" cat", split=None)
        listed_splits("list", [pictures[0]._replace(split=None), spaced], 0)
    with pytest.raises(UserError, match="list: class 'cat' is in validation only"):
        listed_splits("list", [each._replace(split="val") for each in pictures], 0)


def test_of_several_splits_for_validation_the_first_counts() -> None:
    assert used_splits("x", ["test", "train", "validation"]) == {
        "train": "train",
        "validation": "val",
    }
    assert used_splits("x", ["train", "extra"]) == {"train": None}
    with pytest.raises(UserError, match="x: has the splits dev, test; expected train, and perhaps"):
        used_splits("x", ["test", "dev"])
