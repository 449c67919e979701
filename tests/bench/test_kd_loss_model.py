"""What kd_loss's CUDA kernels promise: counted in their machine code, which needs nvcc, no GPU."""

from __future__ import annotations

import json
import shutil

import pytest

from edufast import _native
from edufast.bench import kd_loss_model
from edufast.bench.kd_loss import Shape
from edufast.bench.kd_loss_model import CLASSES, H100, TEACHERS
from edufast.utils.errors import UserError

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None and not _native.cuda.startswith("nvcc"),
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
    assert plan["part_of_warp"] == (shape.classes == 100)


def test_without_nvcc_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(_native, "cuda", "left out: EDUFAST_CUDA=OFF")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    kd_loss_model.compiled.cache_clear()
    with pytest.raises(UserError, match="EDUFAST_CUDA=OFF, and nvcc to compile it was not found"):
        kd_loss_model.compiled(BF16, H100)


@needs_nvcc
@pytest.mark.parametrize(
    ("part_of_warp", "per_teacher", "row"), [(False, 17.5, 8.0), (True, 24.0, 10.0)]
)
def test_instructions_and_exponentials_in_the_hot_loops(part_of_warp, per_teacher, row):
    kernels, registers = kd_loss_model.compiled(BF16, H100)
    name = kd_loss_model.symbol("bf16", part_of_warp)
    kernel = kd_loss_model._find(kernels, name)
    held = _native.held_by_part if part_of_warp else _native.held_by_block
    c = kd_loss_model.counts(kernel, held, 1)
    assert c.per_teacher <= per_teacher
    assert c.row.instructions / (8 * held) <= row
    # One in the sweep and one for the gradient, and two or so per thread and teacher.
    assert 2 <= c.exponentials <= 2 + 3 / (8 * held)
    # Of the student: at T, for the cross-entropy and for the gradient; at T = 1 by squaring.
    assert c.row.exponentials <= 3 * 8 * held + 4
    assert c.loads == {128}
    assert 128 in c.stores
    assert kd_loss_model._find(registers, name) <= (128 if part_of_warp else 168)


@needs_nvcc
@pytest.mark.parametrize(("classes", "teachers"), [(c, k) for c in CLASSES for k in TEACHERS])
def test_the_model_names_what_limits_a_shape(classes, teachers):
    shape = next(s for s in shapes("bf16")[1:] if (s.classes, s.teachers) == (classes, teachers))
    result = kd_loss_model.model(shape, dtypes=BF16)
    times = result["times"]
    assert result["limit"] == max(times, key=times.get)
    assert result["seconds"] > times["copy"] and 0 < result["of_copy"] <= 1
    assert result["moved"] == shape.bytes + 8 * shape.rows


@needs_nvcc
def test_small_batches_take_under_ten_microseconds():
    assert kd_loss_model.model(Shape(1024, 100, 3, "bf16", "mean"), dtypes=BF16)["seconds"] < 10e-6


@needs_nvcc
def test_table_and_json(tmp_path, capsys, monkeypatch):
    few = shapes("bf16")[:3]
    monkeypatch.setattr(kd_loss_model, "grid", lambda: few)
    kd_loss_model.main(tmp_path)
    assert "1024x100 3 bf16" in capsys.readouterr().out
    written = json.loads((tmp_path / "kd_loss_model.json").read_text())
    assert written["gpu"]["name"] == "H100" and len(written["results"]) == 3
