"""The script that measures a file on a device, without EduFast."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edufast
from edufast.edge.contract import file_hash
from edufast.edge.device_rows import measure_here
from edufast.edge.onnx_early_exit import with_early_exit
from edufast.utils.errors import UserError
from tests.edge.test_onnx_early_exit import TEXT

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SCRIPT = str(Path(edufast.__file__).parent / "edge" / "device.py")


def program(weights: int = 0):
    """Of two numbers an image; with a constant of so many numbers that it reads."""
    model = onnx.parser.parse_model(TEXT)
    if weights:
        constant = np.ones((weights, 2), np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(constant, "large"))
        node = onnx.helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0)
        model.graph.node.insert(0, node)
        model.graph.node[1].input[1] = "sum"
    return model


def measured(*files) -> list[dict]:
    command = [sys.executable, SCRIPT, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_takes_two_packages_and_neither_torch_nor_edufast(tmp_path, capsys, monkeypatch) -> None:
    onnx.save(program(), tmp_path / "student.onnx")
    for package in ("torch", "edufast", "executorch"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", ["bench.py", str(tmp_path / "student.onnx")])
    runpy.run_path(SCRIPT)
    assert json.loads(capsys.readouterr().out)["runtime"].startswith("onnxruntime ")


def test_every_file_is_measured_in_a_process_of_its_own(tmp_path) -> None:
    """So that the memory of a large one is not that of a small one after it."""
    for name, weights in (("large", 8_000_000), ("small", 0)):
        onnx.save(program(weights), tmp_path / f"{name}.onnx")
    large, small = measured(tmp_path / "large.onnx", tmp_path / "small.onnx")
    assert (large["file"], small["file"]) == ("large.onnx", "small.onnx")
    assert small["sha256"] == file_hash(tmp_path / "small.onnx")
    assert large["peak_bytes"] - small["peak_bytes"] > 64_000_000
    for row in (large, small):
        assert row["runtime_bytes"] < row["peak_bytes"]
        assert 0 < row["median_ms"] <= row["p95_ms"] and row["load_ms"] > 0


@pytest.mark.parametrize("wrong", ["no file", "missing", "another", "golden images of another"])
def test_what_cannot_be_measured_is_one_line(wrong, tmp_path) -> None:
    file = tmp_path / "student.onnx"
    if wrong == "another":
        file.write_bytes(b"x")
    if wrong == "golden images of another":
        onnx.save(program(), file)
        np.savez(tmp_path / "golden.npz", images=np.zeros((2, 3), np.uint8))
    command = [sys.executable, SCRIPT, *[str(file)] * (wrong != "no file")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("expected exported files" if wrong == "no file" else f"{file}: ")


def test_a_file_whose_process_is_ended_is_told(tmp_path, monkeypatch) -> None:
    """As where memory is short. Here by a runtime that ends it."""
    (tmp_path / "onnxruntime.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, SCRIPT, "a.onnx", "b.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines() == [f"{name}.onnx: ended by signal 9" for name in "ab"]
    with pytest.raises(UserError, match=r"a\.onnx cannot be measured: .* ended by signal 9"):
        measure_here(Path("a.onnx"))


def test_golden_images_decide_where_early_exits_are_left(tmp_path, monkeypatch, capsys) -> None:
    early = with_early_exit(program(), ["a", "b", "c"], [1, 2, 3], 0.9)
    onnx.save(early, tmp_path / "student-early.onnx")
    np.savez(tmp_path / "golden.npz", images=np.array([[9, 0], [0, 0]], np.uint8))
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(tmp_path / "student-early.onnx")])
    state = runpy.run_path(SCRIPT)
    assert state["shown"].tolist() == [[9, 0], [0, 0]] and len(state["times"]) == 50
    assert json.loads(capsys.readouterr().out)["file"] == "student-early.onnx"


def test_memory_is_not_that_of_the_process_that_starts_it(tmp_path) -> None:
    onnx.save(program(), tmp_path / "small.onnx")
    (before,) = measured(tmp_path / "small.onnx")
    ballast = np.ones(50_000_000)  # 400 MB, which getrusage in the new process would begin with
    (row,) = measured(tmp_path / "small.onnx")
    assert row["peak_bytes"] < before["peak_bytes"] + ballast.nbytes // 4
