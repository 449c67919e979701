"""The benchmark of kd_loss: rivals compute the same loss, floors count what must be moved."""

from __future__ import annotations

import json

import pytest
import torch

from edufast.bench import kd_loss, logits
from edufast.bench.benchmark import run
from edufast.bench.kd_loss import Shape
from edufast.bench.logits import DTYPES
from edufast.bench.timing import measure

SHAPES = [
    Shape(rows, classes, teachers, dtype, weighting)
    for weighting, teachers in (("mean", 1), ("mean", 3), ("routed", 3), ("routed", 1))
    for rows, classes, dtype in ((12, 10, "fp32"), (5, 7, "bf16"))
]


def named(shape: Shape) -> str:
    return f"{shape.weighting}-{shape.teachers}-{shape.dtype}"


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_a_batch_is_what_the_shape_counts(shape):
    torch.manual_seed(0)
    batch = kd_loss.batch(shape, "cpu")
    assert batch.student.shape == (shape.rows, shape.classes) and batch.student.requires_grad
    assert [t.shape for t in batch.teachers] == [(shape.rows, shape.columns)] * shape.teachers
    read = len(batch.teachers) if shape.weighting == "mean" else 1
    logits = batch.student.numel() + read * batch.teachers[0].numel()
    assert shape.exponentials == logits
    assert shape.bytes == (logits + batch.student.numel()) * DTYPES[shape.dtype].itemsize


@pytest.mark.parametrize("classes", [10, 12])
def test_every_label_of_a_routed_batch_has_an_owner(classes):
    batch = kd_loss.batch(Shape(500, classes, 3, "fp32", "routed"), "cpu")
    columns = classes // 3
    assert batch.owner.unique().tolist() == [0, 1, 2]
    first = batch.owner * columns
    assert ((first <= batch.labels) & (batch.labels < first + columns)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_all_candidates_compute_the_same_gradient(shape, not_compiled):
    torch.manual_seed(0)
    batches = [kd_loss.batch(shape, "cpu") for _ in range(2)]
    candidates = kd_loss.candidates(shape, batches, "cpu")
    assert list(candidates) == ["eager", "compile", "cpp", "cpp loss_and_grad"]
    gradients = {}
    for name, candidate in candidates.items():
        result = candidate(1)
        grad = batches[1].student.grad if result is None else result[1]
        gradients[name] = grad.float().clone()
    assert batches[0].student.grad is None
    rounding = 1e-5 if shape.dtype == "fp32" else 2e-2
    for name, found in gradients.items():
        assert found.abs().max() > 0
        torch.testing.assert_close(
            found, gradients["eager"], rtol=rounding, atol=1e-2 * rounding, msg=name
        )


def test_the_quick_grid_has_a_shape_of_every_kind_of_the_whole_one():
    quick, whole = kd_loss.grid(True), kd_loss.grid(False)
    assert len(quick) < 10 < len(whole) == len(set(whole))
    for kind in ("dtype", "weighting"):
        assert {getattr(s, kind) for s in quick} == {getattr(s, kind) for s in whole}


def test_results_are_shown_and_written(not_compiled, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(logits, "measure", lambda *a, **k: measure(*a, **k | {"seconds": 0.001}))
    threads = torch.get_num_threads()
    run(kd_loss.BENCHMARK, True, tmp_path, "cpu", 1, SHAPES[2:6:3])
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kd_loss.json", "kd_loss.png"]
    written = json.loads((tmp_path / "kd_loss.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    for result, shape in zip(written["results"], SHAPES[2:6:3], strict=True):
        assert (result["rows"], result["weighting"]) == (shape.rows, shape.weighting)
        assert result["floor"] == max(result["copy"], result["exponentials"])
        eager = result["results"]["eager"]
        assert eager["speedup_over_eager"] == 1
        for found in result["results"].values():
            assert found["low"] <= found["median"] <= found["high"]
            assert found["speedup_over_eager"] == eager["median"] / found["median"]
            assert found["times_floor"] == found["median"] / result["floor"]
    shown = capsys.readouterr().out
    assert "cpp loss_and_grad" in shown and "floor: the larger of" in shown
    assert (tmp_path / "kd_loss.png").read_bytes().startswith(b"\x89PNG")
