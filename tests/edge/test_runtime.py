"""Loading onnxruntime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edufast
from edufast.edge.runtime import load_onnxruntime, load_session
from edufast.utils.errors import UserError
from tests.edge.test_onnx_early_exit import TEXT

EDGE = Path(edufast.__file__).parent / "edge"


def test_onnxruntime_is_loaded_without_telemetry(monkeypatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert load_onnxruntime() is onnxruntime
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("script", ["standalone.py", "device.py"])
def test_the_scripts_for_a_device_write_nothing_to_the_home_folder(script, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "a.onnx")
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: x for name, x in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, str(EDGE / script), str(tmp_path / "a.onnx")]
    subprocess.run(command, env={**environment, "HOME": str(home)}, capture_output=True)
    assert not list(home.iterdir())


def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"a\.onnx cannot be loaded; expected an \.onnx file"):
        load_session(tmp_path / "a.onnx")
