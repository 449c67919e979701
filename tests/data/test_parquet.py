"""Parquet files that hold pictures, or list them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
from edufast.data.manifest import manifest
from edufast.data.parquet import parquet
from edufast.utils.errors import UserError
from edufast.utils.extras import MissingPackageError
from tests.data.folders import make_pictures
from tests.data.packed import contents, embedded, expected, table, write_parquet

pytestmark = pytest.mark.usefixtures("cache")


def test_files_are_those_of_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", table(embedded(10)))
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", table(embedded(4, 10)))
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", table(embedded(5, 50)))
    found = parquet(tmp_path)
    assert found.classes == ("cat", "dog")
    assert contents(found.train) == expected(14) and contents(found.val) == expected(5, 50)


def test_a_single_file_is_split_by_the_seed_wherever_it_is(tmp_path: Path) -> None:
    places = [tmp_path / name / "x.parquet" for name in ("a", "b")]
    first, again = (parquet(write_parquet(path, table(embedded(40))), 3) for path in places)
    assert contents(first.train) | contents(first.val) == expected(40) and len(first.val) >= 2
    assert contents(first.val) == contents(again.val) != contents(parquet(places[0], 4).val)


def test_a_list_is_read_as_that_in_a_csv_file(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        make_pictures(tmp_path / name, 8)
    pictures = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*.png"))]
    classes = [picture.partition("/")[0] for picture in pictures]
    lines = [f"{p},{c}" for p, c in zip(pictures, classes, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(["picture,class", *lines]))
    columns = {"picture": pictures, "class": classes}
    found = parquet(write_parquet(tmp_path / "list.parquet", columns))
    wanted = manifest(tmp_path / "list.csv")
    for a, b in ((found.train, wanted.train), (found.val, wanted.val)):
        assert a.images == b.images and (a.labels == b.labels).all()
    columns["split"] = ["train" if "00" in p and "000" not in p else "test" for p in pictures]
    found = parquet(write_parquet(tmp_path / "split.parquet", columns))
    assert [path.name for path in found.val.images] == ["000.png", "000.png"]
    with pytest.raises(UserError, match="is listed twice"):
        parquet(
            write_parquet(tmp_path / "t.parquet", {"picture": pictures[:1] * 2, "class": [0, 1]})
        )


def test_what_is_no_parquet_file_is_told(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", table(embedded(20)))
    whole = path.read_bytes()
    for damaged in (b"", b"no table", whole[:-9], whole[:300] + bytes(300) + whole[600:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.parquet: cannot be read as Parquet: ") as told:
            parquet(path)
        assert "\n" not in str(told.value)


def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "x.parquet", table(embedded(4)))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pyarrow: pip install 'edufast\[arrow\]'"):
        parquet(path)
