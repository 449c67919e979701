"""What kd_loss's CUDA kernels promise: counted in their machine code, which needs nvcc, no GPU."""

from __future__ import annotations

import json
import shutil

import pytest

from edufast import _build
from edufast.bench import kd_loss_model
from edufast.bench.kd_loss import Shape
from edufast.bench.kd_loss_model import CLASSES, H100, TEACHERS
from edufast.utils.errors import UserError

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None and not _build.cuda.startswith("nvcc"),
    reason="nvcc was not found",
)
BF16 = ("bf16",)


def shapes(dtype: str) -> list[Shape]:
    return [s for s in kd_loss_model.grid() if s.dtype == dtype]


def test_the_grid_has_every_class_count_with_every_number_of_teachers():
    found = {(s.classes, s.teachers, s.dtype) for s in kd_loss_model.grid()}
    for dtype in ("bf16", "fp32"):
        assert {(c, k, dtype) for c in CLASSES for k in TEACHERS} <= found
    assert all(s.bytes >= kd_loss_model.BYTES for s in kd_loss_model.grid()[1:])


@pytest.mark.parametrize("shape", shapes("bf16"), ids=str)
def test_every_bf16_shape_is_staged_with_enough_bytes_in_flight(shape):
    plan = kd_loss_model.plan(shape, H100)
    assert plan["staged"] and plan["vectors"]
    assert plan["shared_bytes"] <= H100.shared_per_block
    assert (plan["lanes"] == 8) == (shape.classes == 100)


def test_without_nvcc_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(_build, "cuda", "left out: EDUFAST_CUDA=OFF")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    kd_loss_model.compiled.cache_clear()
    with pytest.raises(UserError, match="EDUFAST_CUDA=OFF, and nvcc to compile it was not found"):
        kd_loss_model.compiled(BF16, H100)


@needs_nvcc
@pytest.mark.parametrize(
    ("lanes", "held", "per_teacher", "row"),
    [
        (0, 1, 31, 58), (0, 2, 21, 41), (0, 3, 19.5, 36), (0, 4, 18, 32),
        (8, 1, 26, 69), (8, 2, 20, 46),
    ],
)  # fmt: skip
def test_instructions_and_exponentials_in_the_hot_loops(lanes, held, per_teacher, row):
    kernels, registers = kd_loss_model.compiled(BF16, H100)
    name = kd_loss_model.symbol("bf16", lanes)
    c = kd_loss_model.counts(kd_loss_model._find(kernels, name), held, 1)
    logits = 8 * held
    assert c.per_teacher.instructions / logits <= per_teacher
    assert c.row.instructions / logits <= row
    # One in the sweep and one for the gradient, and at most one per thread and teacher.
    assert 2 * logits <= c.per_teacher.exponentials <= 2 * logits + 1
    # Of the student: at T, for the cross-entropy and for both parts of the gradient.
    assert 4 * logits <= c.row.exponentials <= 4 * logits + 4
    # Teachers: for the maximum, the sum and the gradient.
    assert (c.sums.loads, c.gradient.loads) == (2 * held, held) and c.row.stores >= held - 1
    assert len(c.merges) == (0 if lanes else 2)
    assert c.loads == {128}
    assert 128 in c.stores
    assert kd_loss_model._find(registers, name) <= 80


@needs_nvcc
@pytest.mark.parametrize(("classes", "teachers"), [(c, k) for c in CLASSES for k in TEACHERS])
def test_the_model_names_what_limits_a_shape(classes, teachers):
    shape = next(s for s in shapes("bf16")[1:] if (s.classes, s.teachers) == (classes, teachers))
    result = kd_loss_model.model(shape, dtypes=BF16)
    times = result["times"]
    assert result["limit"] == max(times, key=times.get)
    assert result["seconds"] > times["copy"] and 0 < result["of_copy"] <= 1
    assert result["moved"] == shape.bytes + 8 * shape.rows


# Rows, classes, teachers in bf16, and the microseconds that an H100 took in November 2026.
MEASURED = [
    (128, 100, 3, 16.9), (1024, 100, 3, 17.1), (65536, 100, 1, 62.9), (16384, 10, 1, 24.0),
    (1024, 1000, 4, 20.5), (11184, 1000, 1, 54.7), (5592, 1000, 4, 64.8), (3355, 1000, 8, 73.7),
    (2730, 4096, 1, 52.2), (1365, 4096, 4, 60.0), (819, 4096, 8, 72.4), (341, 32768, 1, 69.1),
    (170, 32768, 4, 75.9), (102, 32768, 8, 106.9),
]  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize(("rows", "classes", "teachers", "microseconds"), MEASURED)
def test_the_model_is_within_a_factor_of_1_5_of_what_was_measured(
    rows, classes, teachers, microseconds
):
    result = kd_loss_model.model(Shape(rows, classes, teachers, "bf16", "mean"), dtypes=BF16)
    assert 1 / 1.5 < result["seconds"] * 1e6 / microseconds < 1.5


@needs_nvcc
def test_table_and_json(tmp_path, capsys, monkeypatch):
    few = shapes("bf16")[:3]
    monkeypatch.setattr(kd_loss_model, "grid", lambda: few)
    kd_loss_model.main(tmp_path)
    assert "1024x100 3 bf16" in capsys.readouterr().out
    written = json.loads((tmp_path / "kd_loss_model.json").read_text())
    assert written["gpu"]["name"] == "H100" and len(written["results"]) == 3
