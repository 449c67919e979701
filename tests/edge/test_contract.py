"""contract.json: read as it was written, or refused in one line."""

from __future__ import annotations

import json

import pytest

from edufast.edge.contract import CONTRACT, BundledFile, Contract, file_hash
from edufast.utils.errors import UserError

FILE = BundledFile("student.onnx", "onnx", True, "ab" * 32, 10, 100, 0.5, 0.75, (-0.3, -0.2))
WRITTEN = Contract(
    ("a", "ü"),
    {"name": "image"},
    {"crop": [1, 1]},
    {"name": "logits"},
    (FILE,),
    "cd",
    {"onnx": "1"},
)


def test_what_was_written_is_read(tmp_path) -> None:
    WRITTEN.write(tmp_path)
    read = Contract.read(tmp_path)
    assert tuple(read.classes) == WRITTEN.classes and read.golden == "cd"
    assert read.files[0].name == "student.onnx" and tuple(read.files[0].interval) == (-0.3, -0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": 1, "more": 1}, "has version 1; expected 2"),
        ({"files": [{"name": "x"}]}, "is not a valid contract"),
        ({"files": [vars(FILE) | {"name": "../student.onnx"}]}, "is not a valid contract"),
        ({"files": None}, "is not a valid contract"),
        ({"files": []}, "is not a valid contract"),
        ({"files": [vars(FILE) | {"exact": ""}]}, "is not a valid contract"),
        ({"more": 1}, "is not a valid contract"),
    ],
)
def test_another_contract_is_refused(change, message, tmp_path) -> None:
    WRITTEN.write(tmp_path)
    said = json.loads((tmp_path / CONTRACT).read_text("utf-8"))
    (tmp_path / CONTRACT).write_text(json.dumps(said | change))
    with pytest.raises(UserError, match=message):
        Contract.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"contract": 2}', "\udcff", "[" * 100_000])
def test_a_damaged_contract_is_refused(text, tmp_path) -> None:
    (tmp_path / CONTRACT).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="is not a valid contract; expected one written by edufast"):
        Contract.read(tmp_path)


def test_a_folder_without_one_is_no_bundle(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no contract\.json; expected a bundle"):
        Contract.read(tmp_path)


def test_the_hash_is_of_the_content(tmp_path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f").startswith("ba7816bf")
