"""The command that looks at a data set."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from edufast.data import load_dataset
from tests.commands import edufast, one_line
from tests.data.folders import make_pictures


@pytest.fixture
def pictures(tmp_path):
    """Two classes, a corrupt file of each, and one picture thrice."""
    for name, count in (("cat", 12), ("dog", 4)):
        make_pictures(tmp_path / "pictures" / name, count)
        (tmp_path / "pictures" / name / "bad.png").write_bytes(b"no picture")
    cats = tmp_path / "pictures" / "cat"
    for number in range(2):
        shutil.copy(cats / "000.png", cats / f"copy{number}.png")
    (cats / "notes.txt").write_bytes(b"")
    return tmp_path / "pictures"


def rows(text: str) -> dict[str, str]:
    """What the overview says, by its first column."""
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return {first: " ".join(rest[0].split()) for first, *rest in lines if rest}


def test_one_screen_tells_what_a_run_would_see(pictures):
    said = edufast("data", pictures, columns=200)
    told = rows(said.stdout)
    assert told["layout"].startswith("a folder of images for each class; about a fifth")
    assert told["classes"] == "2"
    assert told["fewest"].endswith(": dog") and told["most"].endswith(": cat")
    assert told["imbalance"].endswith(" to 1, most to fewest")
    assert told["sizes"] == "12 x 10 pixels"
    assert told["train"] == "folder sees 10 x 10 pixels"
    assert told["other"] == "recipes see 224 x 224 pixels, unless they say otherwise"
    assert told["left"] == "out 1 .txt"
    assert told["corrupt"] == "2 files"
    assert said.stderr == ""


def test_corrupt_files_are_all_listed_once_and_duplicates_together(pictures):
    lines = edufast("data", pictures, columns=300).stdout.splitlines()
    assert sorted(line for line in lines if line.startswith("corrupt: ")) == [
        f"corrupt: {pictures}/cat/bad.png",
        f"corrupt: {pictures}/dog/bad.png",
    ]
    (same,) = (line for line in lines if line.startswith("the same: "))
    assert same.count(", ") == 2
    for name in ("000", "copy0", "copy1"):
        assert f"{pictures}/cat/{name}.png" in same


def test_it_fits_a_narrow_terminal(pictures):
    said = edufast("data", pictures, columns=80).stdout.splitlines()
    shown = [line for line in said if not line.startswith(("corrupt: ", "the same: "))]
    assert max(map(len, shown)) <= 80


def test_json_has_it_all(pictures):
    said = json.loads(edufast("data", pictures, "--json").stdout)
    assert said["classes"].keys() == {"cat", "dog"} and len(said["unreadable"]) == 2
    assert sum(map(len, said["duplicates"]["groups"])) == 3


def test_of_many_classes_the_largest_and_the_smallest_are_listed(tmp_path):
    for number in range(30):
        make_pictures(tmp_path / f"c{number:02}", 2 + number)
    said = edufast("data", tmp_path).stdout
    listed = [line.split()[0] for line in said.splitlines() if line.startswith(("c0", "c1", "c2"))]
    assert len(listed) == 20 and listed[0] == "c29" and listed[-1] == "c00"
    assert "…" in said


def test_what_to_leave_out_is_listed_for_a_run(pictures, tmp_path):
    listed = tmp_path / "fix.csv"
    said = edufast("data", pictures, "--fix-list", listed, "--json")
    # Two corrupt files, and two of three copies.
    assert json.loads(said.stdout) and said.stderr == f"4 files to leave out: {listed}\n"
    out = [line.split(",")[0] for line in listed.read_text().splitlines()[1:]]
    assert {path.rsplit("/", 1)[1] for path in out} >= {"bad.png"} and len(out) == 4
    with pytest.warns(UserWarning, match="16 image files are used, 4 left out"):
        load_dataset(pictures, image_size=8, leave_out=listed)


def test_a_contact_sheet_is_written_and_named(pictures, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    said = edufast("data", pictures, "--contact-sheet", sheet, "--json")
    assert json.loads(said.stdout) and said.stderr == f"contact sheet: {sheet}\n"
    with Image.open(sheet) as image:
        assert image.width > 800 and image.height > 200


def test_what_is_wrong_is_told_in_one_line_before_anything_is_read(pictures, tmp_path):
    for arguments, message in (
        (("nowhere",), "data source is 'nowhere'"),
        ((tmp_path / "empty",), "data source is"),
        ((pictures, "--contact-sheet", "a.gif"), "--contact-sheet is 'a.gif'; expected a name"),
    ):
        said = one_line(edufast("data", *arguments, code=2))
        assert said.startswith("edufast: ") and message in said


def test_ctrl_c_ends_in_one_line_and_leaves_no_file(pictures, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr("edufast.data.contact_sheet.read_picture", interrupted)
    said = edufast("data", pictures, "--contact-sheet", sheet, code=130)
    assert said.stderr == "edufast: stopped\n" and said.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]
