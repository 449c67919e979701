"""Latency and memory of exported files, here and from devices."""

from __future__ import annotations

import pytest

from edufast.bench import edge
from edufast.edge.contract import file_hash
from edufast.edge.device_rows import read_rows
from edufast.utils.errors import UserError
from tests.edge.test_device import onnx, program


def test_every_exported_file_of_a_folder_is_measured_and_written(tmp_path, capsys) -> None:
    for name in ("student.onnx", "student-exit1.onnx", "other.onnx"):
        onnx.save(program(), tmp_path / name)
    rows = edge.main(tmp_path, [], tmp_path / "here.jsonl")
    assert [row.file for row in rows] == ["student-exit1.onnx", "student.onnx"]
    assert read_rows(tmp_path / "here.jsonl") == rows
    shown = capsys.readouterr().out
    assert "student-exit1.onnx" in shown and max(map(len, shown.splitlines())) <= 80
    (row,) = edge.main(tmp_path / "other.onnx", [], None)
    assert row.sha256 == file_hash(tmp_path / "other.onnx")


def test_a_folder_as_output_is_refused_before_anything_is_measured(tmp_path, monkeypatch) -> None:
    onnx.save(program(), tmp_path / "student.onnx")
    measured: list[object] = []
    monkeypatch.setattr(edge, "measure_here", measured.append)
    with pytest.raises(UserError, match="is a folder; expected a file to write"):
        edge.main(tmp_path, [], tmp_path)
    assert not measured
