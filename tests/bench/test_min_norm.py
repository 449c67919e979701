"""The benchmark of min_norm_weights: rivals find the same weights, results are written."""

from __future__ import annotations

import json

import pytest
import torch

from edufast.bench import logits, min_norm
from edufast.bench.benchmark import run
from edufast.bench.min_norm import Shape
from edufast.bench.timing import measure

SHAPES = [Shape(12, 10, 2, "fp32"), Shape(5, 7, 4, "bf16")]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.dtype)
def test_all_candidates_find_the_same_weights(shape, not_compiled):
    torch.manual_seed(0)
    inputs = [min_norm.logits(shape, "cpu") for _ in range(2)]
    candidates = min_norm.candidates(inputs, "cpu")
    assert list(candidates) == ["eager", "compile", "cpp"]
    weights = {name: candidate(1).float() for name, candidate in candidates.items()}
    assert weights["eager"].shape == (shape.teachers,) and weights["eager"].std() > 1e-3
    for name, found in weights.items():
        torch.testing.assert_close(found, weights["eager"], rtol=0, atol=1e-4, msg=name)


def test_the_solver_leaves_out_a_teacher_whose_gradient_is_in_the_way():
    found = min_norm.solved(torch.tensor([[1.0, 2.0], [2.0, 9.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0], dtype=torch.float64))
    equal = min_norm.solved(torch.eye(4))
    torch.testing.assert_close(equal, torch.full((4,), 0.25, dtype=torch.float64))


def test_inputs_are_what_the_shape_counts():
    shape = Shape(5, 7, 4, "bf16")
    inputs = min_norm.logits(shape, "cpu")
    assert len(inputs) == 5 and shape.exponentials == sum(x.numel() for x in inputs)
    assert shape.bytes == sum(x.nbytes for x in inputs)
    assert set(min_norm.grid(True)) < set(min_norm.grid(False))


def test_results_are_shown_and_written(not_compiled, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(logits, "measure", lambda *a, **k: measure(*a, **k | {"seconds": 0.001}))
    run(min_norm.BENCHMARK, True, tmp_path, "cpu", 1, SHAPES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["min_norm.json", "min_norm.png"]
    written = json.loads((tmp_path / "min_norm.json").read_text())["results"]
    assert [(r["classes"], r["teachers"]) for r in written] == [(10, 2), (7, 4)]
    assert "5 x 7, 4, bf16" in capsys.readouterr().out
