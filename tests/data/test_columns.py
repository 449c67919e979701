"""Which columns of a table are pictures and classes, and what their rows are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
import pyarrow as pa

from edufast.data.columns import Columns, find_columns, pictures_of
from edufast.data.unpacked import Packed
from edufast.utils.errors import UserError
from tests.data.packed import NAMES, content, embedded, table


def columns(made: Any) -> Columns:
    return find_columns("here", made.schema)


def rows(made: Any, where: str = "/folder/x.parquet") -> list[Packed]:
    return list(pictures_of(Path(where), made.to_batches(), columns(made)))


def test_pictures_and_names_of_classes_are_those_of_hugging_face() -> None:
    made = table({**embedded(5), "path": ["?"] * 5})
    assert columns(made) == Columns("image", "label", NAMES, None)
    assert rows(made) == [Packed(content(k), NAMES[k % 2]) for k in range(5)]
    other = table({"img": embedded(2)["image"], "animal": [1, 0]}, "animal")
    assert columns(other) == Columns("img", "animal", NAMES, None)


def test_two_classes_of_one_name_are_refused() -> None:
    """They would be learned as one."""
    made = table({"image": embedded(2)["image"], "label": [0, 1]}, names=("cat", "cat"))
    with pytest.raises(UserError, match="label has two classes called 'cat'; expected one"):
        columns(made)


def test_pictures_may_be_bytes_and_classes_text() -> None:
    for kind in (pa.binary(), pa.large_binary()):
        made = pa.table({
            "x": pa.array([content(0), content(1)], kind),
            "class": pa.array(["a", "b"]).dictionary_encode(),
            "split": ["train", "test"],
        })  # fmt: skip
        assert columns(made) == Columns("x", "class", None, "split")
        assert rows(made) == [Packed(content(0), "a", "train"), Packed(content(1), "b", "test")]


def test_pictures_may_be_paths_from_the_folder_of_the_file() -> None:
    made = pa.table({"picture": ["a.png", "/b/c.png"], "class": [7, 12]})
    assert rows(made) == [Packed(Path("/folder/a.png"), "7"), Packed(Path("/b/c.png"), "12")]
    links = [{"bytes": None, "path": "a.png"}, {"bytes": b"", "path": "b.png"}]
    assert [each.picture for each in rows(table({"image": links, "label": [0, 1]}))] == [
        Path("/folder/a.png"), b"",
    ]  # fmt: skip


def test_of_several_columns_the_one_with_the_usual_name_is_taken() -> None:
    made = pa.table({"mask": [b"1"], "image": [b"2"], "path": ["x"], "label": [3], "class": ["c"]})
    assert columns(made) == Columns("image", "class", None, None)


def test_large_batches_are_read_in_parts() -> None:
    made = pa.table({"image": [str(k).encode() for k in range(150)], "label": list(range(150))})
    assert [each.name for each in rows(made)] == list(map(str, range(150)))


@pytest.mark.parametrize("metadata", [b"{", b"[1]", b'{"info": {"features": 3}}', b"\xff"])
def test_metadata_that_says_nothing_is_as_none(metadata: bytes) -> None:
    made = pa.table({"image": [b"1"], "label": [3]})
    assert rows(made.replace_schema_metadata({"huggingface": metadata}))[0].name == "3"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            {"a": [b"1"], "b": [b"2"], "label": [0]},
            "has the columns a, b, label; expected one of p",
        ),
        ({"words": ["x"], "label": [0]}, "expected one of pictures, called picture or image or"),
        ({"image": [b"1"], "kind": [0]}, "expected one of classes, called class or label"),
    ],
)
def test_columns_that_are_missing_or_cannot_be_told_apart_are_refused(
    made: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        columns(pa.table(made))


@pytest.mark.parametrize("name", ["label", "image"])
def test_several_columns_of_one_name_are_refused(name: str) -> None:
    made = pa.table({"image": [b"1"], "label": [0]})
    made = made.append_column(name, made[name])
    with pytest.raises(UserError, match=f"has several columns called {name}; expected one"):
        columns(made)


def test_text_that_is_not_utf8_is_told() -> None:
    broken = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    with pytest.raises(UserError, match=r"x\.parquet, from row 0: text is not UTF-8"):
        rows(pa.table({"image": [b"1", b"2"], "label": broken}))


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (None, 0, "x.parquet, row 1: has no picture"),
        ({"bytes": None, "path": None}, 0, "row 1: has no picture"),
        ({"bytes": b"1", "path": None}, None, "row 1: label is None; expected a class"),
        ({"bytes": b"1", "path": None}, -1, "row 1: label is -1; expected 0 to 1"),
        ({"bytes": b"1", "path": None}, 2, "row 1: label is 2; expected 0 to 1"),
    ],
)
def test_rows_without_a_picture_or_class_are_refused(image: Any, label: Any, message: str) -> None:
    good = embedded(1)
    made = table({"image": [*good["image"], image], "label": [*good["label"], label]})
    with pytest.raises(UserError, match=message):
        rows(made)
