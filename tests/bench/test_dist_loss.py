"""The benchmark of dist_loss: rivals compute the same, results are shown and written."""

from __future__ import annotations

import json

import pytest
import torch

from edufast.bench import dist_loss, logits
from edufast.bench.benchmark import run
from edufast.bench.dist_loss import Shape
from edufast.bench.timing import measure

SHAPES = [Shape(12, 10, "fp32"), Shape(5, 7, "bf16")]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.dtype)
def test_all_candidates_compute_the_same_gradient(shape, not_compiled):
    torch.manual_seed(0)
    pairs = [dist_loss.pair(shape, "cpu") for _ in range(2)]
    candidates = dist_loss.candidates(pairs, "cpu")
    assert list(candidates) == ["eager", "compile", "cpp"]
    gradients = {}
    for name, candidate in candidates.items():
        candidate(1)
        gradients[name] = pairs[1].student.grad.float().clone()
    assert pairs[0].student.grad is None
    rounding = 1e-4 if shape.dtype == "fp32" else 2e-2
    for name, found in gradients.items():
        assert found.abs().max() > 0
        torch.testing.assert_close(
            found, gradients["eager"], rtol=rounding, atol=1e-2 * rounding, msg=name
        )


def test_a_pair_is_what_the_shape_counts():
    shape = Shape(5, 7, "bf16")
    pair = dist_loss.pair(shape, "cpu")
    assert shape.exponentials == pair.student.numel() + pair.teacher.numel()
    assert shape.bytes == 2 * pair.student.nbytes + pair.teacher.nbytes
    assert set(dist_loss.grid(True)) < set(dist_loss.grid(False))


def test_results_are_shown_and_written(not_compiled, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(logits, "measure", lambda *a, **k: measure(*a, **k | {"seconds": 0.001}))
    run(dist_loss.BENCHMARK, True, tmp_path, "cpu", 1, SHAPES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dist_loss.json", "dist_loss.png"]
    written = json.loads((tmp_path / "dist_loss.json").read_text())["results"]
    assert [(r["rows"], r["classes"]) for r in written] == [(12, 10), (5, 7)]
    shown = capsys.readouterr().out
    assert "5 x 7, bf16" in shown and "floor: the larger of" in shown
