"""Pictures that a table lists, with their classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edufast.data.datasets import load_dataset
from edufast.data.folder import folder
from edufast.data.manifest import manifest
from edufast.data.survey import survey
from edufast.utils.errors import UserError
from tests.data.folders import make_pictures, names


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, count in (("cat", 12), ("dog", 5)):
        make_pictures(tmp_path / "pictures" / name, count)
    return tmp_path / "pictures"


def write(pictures: Path, rows: list[str], heads: str = "picture,class") -> Path:
    path = pictures.parent / "list.csv"
    path.write_text("\n".join([heads, *rows]) + "\n", encoding="utf-8-sig")  # as spreadsheets do
    return path


def all_rows(pictures: Path) -> list[str]:
    files = sorted(pictures.rglob("*.png"))
    return [f"{path.relative_to(pictures.parent)},{path.parent.name}" for path in files]


def test_without_a_split_it_is_that_of_the_folder(pictures: Path) -> None:
    path = write(pictures, all_rows(pictures)[::-1])
    for seed in (0, 3):
        found, expected = manifest(path, seed), folder(pictures, seed)
        assert found.classes == expected.classes == ("cat", "dog")
        for a, b in ((found.train, expected.train), (found.val, expected.val)):
            assert a.images == b.images and (a.labels == b.labels).all()


def test_a_split_is_taken_as_it_is_named(pictures: Path) -> None:
    rows = [f"{row},extra,{'test' if '000' in row else 'train'}" for row in all_rows(pictures)]
    found = manifest(write(pictures, rows, "picture,class,note,split"))
    assert names(found.val) == {"cat/000.png", "dog/000.png"}
    assert len(found.train) == 15
    only_cats = [row.replace("test", "train") if "dog" in row else row for row in rows]
    assert set(manifest(write(pictures, only_cats, "picture,class,note,split")).val.labels) == {0}


def test_paths_may_be_absolute_and_are_not_those_of_the_working_folder(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(pictures, [f"{pictures.parent}/{row}" for row in all_rows(pictures)])
    expected = names(manifest(path).train)
    monkeypatch.chdir(pictures)
    assert names(manifest(write(pictures, all_rows(pictures))).train) == expected


def test_a_run_and_a_look_read_it_by_its_source(pictures: Path) -> None:
    pytest.importorskip("nvidia.dali")
    source = f"manifest:{write(pictures, all_rows(pictures))}"
    data = load_dataset(source, image_size=8)
    assert (len(data.train) + len(data.val), data.classes) == (17, ("cat", "dog"))
    assert survey(source).counts["dog"][0] + survey(source).counts["dog"][1] == 5


@pytest.mark.parametrize(
    ("rows", "heads", "message"),
    [
        ([], "picture,class", "expected the columns picture and class, and a row for each"),
        (["a,b"], "file,label", "expected the columns picture and class"),
        (["gone.png,cat"], "picture,class", r"list\.csv, row 2: '.*gone\.png' is not a file"),
        (["pictures,cat"], "picture,class", "row 2: '.*pictures' is not a file"),
        (["pictures/cat/000.png,"], "picture,class", "row 2: class '': expected a name"),
        (["pictures/cat/000.png"], "picture,class", "row 2: class '': expected a name"),
        (["pictures/cat/000.png,c\x07"], "picture,class", r"row 2: class 'c\\x07': expected"),
        (["pictures/cat/000.png,c,new"], "picture,class,split", "split is 'new'; expected one of"),
        (["pictures/cat/000.png,c"] * 2, "picture,class", "row 3: '.*000.png' is listed twice"),
        (["pictures/cat/000.png,c", "pictures/dog/../cat/000.png,d"], "picture,class",
         r"row 3: '.*dog/\.\./cat/000.png' is listed twice"),
        (["pictures/cat/000.png,c,d"], "picture,class,class", "expected one column class, got 2"),
        (["pictures/cat/000.png,c"], "picture,class", "class 'c': expected 2 images to split"),
        (["pictures/cat/000.png,c", "pictures/cat/001.png,c"], "picture,class",
         "expected at least 2 classes, got 1"),
        (["pictures/cat/000.png,c,val"], "picture,class,split", "class 'c' is in validation only"),
        (["pictures/cat/000.png,cat, black"], "picture,class",
         "row 2: expected 2 fields, got 3; a name with a comma needs quotes around it"),
        ([], "", r"list\.csv: expected the columns picture and class"),
        (['"pictures/cat/000.png,c'], "picture,class", "cannot be read as a CSV file: unexpected"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_told(
    pictures: Path, rows: list[str], heads: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        manifest(write(pictures, rows, heads))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_list(pictures: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a CSV file"):
        manifest(pictures)
    assert os.path.isdir(pictures)


def test_empty_fields_at_the_end_of_a_row_are_of_no_matter(pictures: Path) -> None:
    rows = [f"{row},," for row in all_rows(pictures)]
    assert len(manifest(write(pictures, rows)).train) == len(folder(pictures).train)


def test_an_empty_file_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    with pytest.raises(UserError, match=r"list\.csv: expected the columns picture and class"):
        manifest(tmp_path / "list.csv")
