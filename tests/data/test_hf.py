"""Data sets that Hugging Face's datasets saved on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
from edufast.data.hf import hf, is_saved
from edufast.utils.errors import UserError
from edufast.utils.extras import MissingPackageError
from tests.data.packed import contents, embedded, expected, table, write_saved

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """With three splits, one of them in two files."""
    root = tmp_path / "saved"
    write_saved(root / "train", table(embedded(9)), table(embedded(3, 9)))
    write_saved(root / "test", table(embedded(4, 20)))
    write_saved(root / "validation", table(embedded(6, 30)))
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test", "validation"]}')
    return root


def test_splits_are_those_that_were_saved(saved: Path) -> None:
    found = hf(saved)
    assert found.classes == ("cat", "dog")
    assert contents(found.train) == expected(12) and contents(found.val) == expected(6, 30)


def test_one_without_splits_is_split_by_the_seed(saved: Path) -> None:
    one = hf(saved / "train", 1)
    assert contents(one.train) | contents(one.val) == expected(12)
    (saved / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert contents(hf(saved, 1).val) == contents(one.val)


def test_it_is_recognised(saved: Path, tmp_path: Path) -> None:
    assert is_saved(saved) and is_saved(saved / "test") and not is_saved(tmp_path)


def test_what_is_missing_or_damaged_is_told(saved: Path) -> None:
    def refuses(message: str) -> None:
        with pytest.raises(UserError, match=message) as told:
            hf(saved)
        assert "\n" not in str(told.value)

    arrow = saved / "train" / "data-00001-of-00002.arrow"
    whole = arrow.read_bytes()
    for damaged in (whole[:50], whole[:-200]):
        arrow.write_bytes(damaged)
        refuses(r"data-00001-of-00002\.arrow: cannot be read as an Arrow file: ")
    arrow.unlink()
    refuses(r"data-00001-of-00002\.arrow: missing; .*state\.json names it")
    for content in ("{", "[]", "[" * 100_000, json.dumps({"_data_files": [3]})):
        (saved / "train" / "state.json").write_text(content)
        refuses(r"train/state\.json: is damaged; expected a file written by save_to_disk")
    (saved / "train" / "state.json").unlink()
    refuses(r"train/state\.json: missing; expected a folder written by save_to_disk")
    (saved / "dataset_dict.json").write_text('{"splits": ["test"]}')
    refuses("has the splits test; expected train")


def test_the_extra_is_named_where_it_is_missing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pyarrow: pip install 'edufast\[arrow\]'"):
        hf(saved)
