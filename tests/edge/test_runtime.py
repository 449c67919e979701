"""Loading onnxruntime."""

from __future__ import annotations

import os

import pytest

from edufast.edge.runtime import load_onnxruntime


def test_onnxruntime_is_loaded_without_telemetry(monkeypatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert load_onnxruntime() is onnxruntime
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
