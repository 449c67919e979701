"""The benchmark of exported files: the files answer, results are shown and written."""

from __future__ import annotations

import json

import pytest
import torch

from edufast.bench import export
from edufast.bench.benchmark import run
from edufast.bench.timing import measure
from edufast.utils.errors import UserError


def test_results_are_shown_and_written(monkeypatch, tmp_path, capsys):
    answered = []

    def counted(candidates, **k):
        answered.append({name: candidate(0).shape for name, candidate in candidates.items()})
        return measure(candidates, **k | {"seconds": 0.001})

    formats = "onnx", "onnx-int8"  # tests/edge has the others
    monkeypatch.setattr(export, "MODELS", ("resnet8",))
    monkeypatch.setattr(export, "installed_formats", lambda: formats)
    monkeypatch.setattr(export, "measure", counted)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: None)  # which takes half a minute
    run(export.BENCHMARK, True, tmp_path, "cuda", None)
    names = "PyTorch", "PyTorch, compiled", *formats
    assert answered == [dict.fromkeys(names, (1, export.CLASSES))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", "export.png"]
    written = json.loads((tmp_path / "export.json").read_text())
    assert written["machine"]["threads"] == 1 and written["machine"]["device"] == "cpu"
    (result,) = written["results"]
    results = result["results"]
    assert results["onnx-int8"]["bytes"] < results["onnx"]["bytes"]
    for found in results.values():
        assert found["speedup_over_torch"] == results["PyTorch"]["median"] / found["median"]
    assert "resnet8, one image of 32 pixels" in capsys.readouterr().out
    assert (tmp_path / "export.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_package_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx: pip install 'edufast\[export\]'"):
        run(export.BENCHMARK, True, tmp_path, "cpu", None)
    assert not list(tmp_path.iterdir())
