"""Tables of how files do on devices: measured here, written and read."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from edufast.edge.device_rows import DeviceRow, measure_here, read_rows, write_device_script
from edufast.utils.errors import UserError
from tests.edge.test_device import onnx, program

ROW = DeviceRow("student.onnx", "ab", "Linux-armv7l", "1.32.0", 5.0, 1.0, 2.0, 60_000_000, 50_000)


def test_what_the_script_prints_is_read(tmp_path) -> None:
    onnx.save(program(), tmp_path / "student.onnx")
    row = measure_here(tmp_path / "student.onnx")
    (tmp_path / "table.jsonl").write_text(json.dumps(asdict(row)) + "\n")
    assert read_rows(tmp_path / "table.jsonl") == [row] and row.file == "student.onnx"


def test_a_file_that_cannot_be_run_is_one_line(tmp_path) -> None:
    (tmp_path / "student.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"student\.onnx cannot be measured: ") as error:
        measure_here(tmp_path / "student.onnx")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "x",
        "[" * 100_000,
        json.dumps(asdict(ROW) | {"median_ms": "1"}),
        json.dumps(asdict(ROW) | {"peak_bytes": True}),
    ],
)
def test_another_table_is_refused_in_one_line(line, tmp_path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(asdict(ROW)) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"table\.jsonl, line 2 was not printed by bench\.py"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(UserError, match="is empty; expected the output of"):
        read_rows(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path)


def test_the_script_goes_into_a_folder_as_it_is(tmp_path) -> None:
    write_device_script(tmp_path)
    assert "Needs Linux, numpy, and onnxruntime" in (tmp_path / "bench.py").read_text()
