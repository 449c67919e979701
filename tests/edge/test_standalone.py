"""The script that predicts without EduFast says what EduFast says."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edufast.edge.early_exit import write_early_exit
from edufast.edge.exit_choice import Target
from edufast.edge.export import export
from edufast.edge.predict import predict
from edufast.edge.registry import FORMATS
from edufast.edge.trained import write_script
from tests.data.odd_pictures import smooth, write_odd_pictures
from tests.edge.students import original, student_with_exits
from tests.tiny import tiny_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "predict.py"


@pytest.mark.parametrize(("size", "to"), [(32, "onnx"), (128, "onnx"), (32, "onnx-int8")])
def test_it_predicts_the_same(size, to, tmp_path, monkeypatch, capsys) -> None:
    """Beside the model, of every kind of picture, for small and large views."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model, classes = tiny_model(6).eval(), ["a", "b", "c", "d", "é", "<f>"]
    path = tmp_path / "student.onnx"
    images = np.random.default_rng(0).integers(0, 256, (80, size, size, 3), dtype=np.uint8)
    export(
        model, path, to=to, input_size=(3, size, size), classes=classes, mean=[0.3] * 3,
        std=[0.02] * 3, samples=images[:16], labels=np.zeros(16, int), calibration=images[16:],
        max_drop=100,
    )  # fmt: skip
    pictures = write_odd_pictures(tmp_path / "pictures")
    for number, (height, width) in enumerate([(9, 14), (301, 200), (40, 41), (128, 128)]):
        pictures.append(tmp_path / f"{number}.png")
        smooth(height, width).save(pictures[-1])
    script = write_script(tmp_path)
    assert script == tmp_path / "predict.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(path), *map(str, pictures)])
    runpy.run_path(str(script), run_name="__main__")
    expected = [f"{p.picture}: {p.name} {p.probability:.1%}" for p in predict(path, pictures)]
    assert capsys.readouterr().out.splitlines() == expected
    assert len({line.rpartition(" ")[2] for line in expected}) > 3


@pytest.mark.parametrize("given", [[], ["student.pte", "a.png"]])
def test_a_file_that_it_cannot_run_is_one_line(given, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sys, "argv", ["predict.py", *given])
    with pytest.raises(SystemExit, match=r"^expected an \.onnx file and pictures, not '"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_it_is_the_example_and_needs_three_packages_only() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert modules == {"json", "os", "sys", "numpy", "onnxruntime", "PIL"}
    assert EXAMPLE.read_text() == (EXAMPLE.parents[1] / "edufast/edge/standalone.py").read_text()


def test_it_predicts_with_a_program_that_ends_early(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path, picture = tmp_path / "student-early.onnx", tmp_path / "a.png"
    whole, all_leave = original(), Target(100.0, of_cost=False)
    write_early_exit(whole, student_with_exits(), all_leave, FORMATS["onnx"], path, whole.metadata)
    smooth(40, 41).save(picture)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(path), str(picture)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (expected,) = predict(path, picture)
    assert capsys.readouterr().out == f"{picture}: {expected.name} {expected.probability:.1%}\n"
