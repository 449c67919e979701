"""Loading onnxruntime."""

from __future__ import annotations

import os

import pytest

from edufast.edge.runtime import load_onnxruntime, load_session
from edufast.utils.errors import UserError


def test_onnxruntime_is_loaded_without_telemetry(monkeypatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert load_onnxruntime() is onnxruntime
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"a\.onnx cannot be loaded; expected an \.onnx file"):
        load_session(tmp_path / "a.onnx")
