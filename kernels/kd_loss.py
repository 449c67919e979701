"""The fused multi-teacher loss in Triton: semantics as in edufast/ops/kd_loss_reference.py.

Rows that fit a tile are read once and stay in registers (``_tile_kernel``); longer ones are read
twice, first for an online softmax, then for the gradient (``_loop_kernel``). In both, a divergence
becomes a few coefficients per row and teacher before any gradient is written. Registers hold fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from edufast.kernels.kd_loss_divergences import JS, complete, empty_sums
from edufast.kernels.kd_loss_tiles import (
    Student,
    Teacher,
    Weights,
    add_gradients,
    add_student,
    any_row,
    cross_entropy,
    cross_entropy_gradient,
    gather_tile,
    in_elements,
    load_rows,
    load_student,
    load_teacher,
    no_student_sums,
    settle_rows,
    store_student_grad,
    store_teacher_grad,
    teacher_weights,
    touches,
)
from torch import Tensor

from edufast.ops.kd_loss import _fake, register
from edufast.ops.kd_loss_reference import REDUCTIONS, Problem

_INF = tl.constexpr(float("inf"))


class Tile(NamedTuple):
    """What a program holds at a time, and its warps."""

    rows: int
    classes: int
    warps: int


# A row takes the first tile that holds it. Up to 256 classes a warp works alone, without shared
# memory; 4 to 8 values a thread. tests/ops/test_triton_offline.py proves that none of these spills.
TILES = (
    Tile(rows=8, classes=16, warps=1),
    Tile(rows=4, classes=32, warps=1),
    Tile(rows=2, classes=64, warps=1),
    Tile(rows=1, classes=128, warps=1),
    Tile(rows=1, classes=256, warps=1),
    Tile(rows=1, classes=512, warps=2),
    Tile(rows=1, classes=1024, warps=4),
    Tile(rows=1, classes=2048, warps=8),
)
LOOP = Tile(rows=1, classes=2048, warps=8)  # longer rows, so many classes at a time

# --- kernels ------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["num_rows"])
def _tile_kernel(  # type: ignore[no-untyped-def]
    student, teachers, labels, label_stride, weights, scale, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, WEIGHTING: tl.constexpr, DIVERGENCE: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    student = in_elements(student)
    classes = student.classes
    scale = 1.0 if scale is None else tl.load(scale)
    column = tl.arange(0, CLASSES)
    rows = load_rows(student, labels, label_stride, num_rows, ignore_index, ROWS)
    is_label = rows.label[:, None] == column[None, :]
    weight = teacher_weights(weights, teachers, rows, classes, K, WEIGHTING, CLASSES, False)

    z = load_student(student, rows, column)
    student_sums = add_student(no_student_sums(ROWS), z, 0, column, classes)
    value, slope = cross_entropy(student_sums, rows, classes, alpha, smoothing)
    grad = cross_entropy_gradient(z, student_sums, slope * scale, is_label, classes, smoothing)

    for k in tl.static_range(K):
        teacher = teachers[k]
        read = rows.valid & (weight[k] != 0) & (alpha != 1)
        if any_row(read):
            v, mask = load_teacher(teacher, rows, column, read, classes)
            u = tl.where(mask, z, -_INF)
            sums = gather_tile(empty_sums(ROWS), u, v, is_label, teacher.temperature, DIVERGENCE)
            if DIVERGENCE == JS:
                sums = complete(sums, sums, u, v, teacher.temperature, param0)
            added, u_slope, v_slope = settle_rows(
                sums, teacher, rows, read, weight[k], classes, alpha, param0, param1, scale,
                DIVERGENCE,
            )  # fmt: skip
            value += added
            grad = add_gradients(
                grad, sums, u_slope, v_slope, u, v, teacher, rows, column, is_label, classes,
                param0, DIVERGENCE,
            )  # fmt: skip
        elif teacher.grad is not None:
            store_teacher_grad(teacher, tl.zeros_like(grad), rows, column, classes)
        # Registers: without it the loads of all teachers would be issued, and kept, at once.
        tl.debug_barrier()

    store_student_grad(student, grad, rows, column)
    tl.store(loss + rows.index, tl.where(rows.valid, value * scale, 0.0), mask=rows.exists)


_KEPT = tl.constexpr(12)  # per row and teacher between the visits: 4 sums and two slopes of 4


@triton.jit
def _keep(kept, i, numbers):  # type: ignore[no-untyped-def]
    for j in tl.static_range(4):
        tl.store(kept + (i * 4 + j), numbers[j])


@triton.jit
def _recall(kept, i):  # type: ignore[no-untyped-def]
    kept += i * 4
    return tl.load(kept), tl.load(kept + 1), tl.load(kept + 2), tl.load(kept + 3)


@triton.jit
def _load_pair(student, teacher, rows, column, read):  # type: ignore[no-untyped-def]
    v, mask = load_teacher(teacher, rows, column, read, student.classes)
    return tl.where(mask, load_student(student, rows, column), -_INF), v


@triton.jit(do_not_specialize=["num_rows"])
def _loop_kernel(  # type: ignore[no-untyped-def]
    student, teachers, labels, label_stride, weights, scale, loss, kept, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, WEIGHTING: tl.constexpr, DIVERGENCE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    student = in_elements(student)
    classes = student.classes
    scale = 1.0 if scale is None else tl.load(scale)
    columns = tl.arange(0, CLASSES)
    rows = load_rows(student, labels, label_stride, num_rows, ignore_index, 1)
    weight = teacher_weights(weights, teachers, rows, classes, K, WEIGHTING, CLASSES, True)
    kept += rows.index * (K * _KEPT)

    # First visit: the student together with the first teacher, then one teacher after the other.
    value = tl.zeros_like(rows.z_label)
    student_sums = no_student_sums(1)
    for k in tl.static_range(K):
        teacher = teachers[k]
        read = rows.valid & (weight[k] != 0) & (alpha != 1)
        busy = any_row(read)
        sums = empty_sums(1)
        for first in range(0, classes, CLASSES):
            column = first + columns
            if k == 0:
                z = load_student(student, rows, column)
                student_sums = add_student(student_sums, z, first, column, classes)
            if busy & touches(teacher, first, CLASSES):
                u, v = _load_pair(student, teacher, rows, column, read)
                is_label = rows.label[:, None] == column[None, :]
                sums = gather_tile(sums, u, v, is_label, teacher.temperature, DIVERGENCE)
        if DIVERGENCE == JS:
            whole = sums
            for first in range(0, classes, CLASSES):
                if busy & touches(teacher, first, CLASSES):
                    u, v = _load_pair(student, teacher, rows, first + columns, read)
                    sums = complete(sums, whole, u, v, teacher.temperature, param0)
        added, u_slope, v_slope = settle_rows(
            sums, teacher, rows, read, weight[k], classes, alpha, param0, param1, scale, DIVERGENCE
        )
        value += added
        _keep(kept, k * 3, sums)
        _keep(kept, k * 3 + 1, u_slope)
        _keep(kept, k * 3 + 2, v_slope)
    added, slope = cross_entropy(student_sums, rows, classes, alpha, smoothing)
    tl.store(loss + rows.index, tl.where(rows.valid, (value + added) * scale, 0.0))
    tl.debug_barrier()  # what is kept was written by one thread and is read by all

    # Second visit.
    for first in range(0, classes, CLASSES):
        column = first + columns
        is_label = rows.label[:, None] == column[None, :]
        z = load_student(student, rows, column)
        grad = cross_entropy_gradient(z, student_sums, slope * scale, is_label, classes, smoothing)
        for k in tl.static_range(K):
            teacher = teachers[k]
            read = rows.valid & (weight[k] != 0) & (alpha != 1)
            busy = any_row(read if teacher.grad is None else rows.exists)
            if busy & touches(teacher, first, CLASSES):
                v, mask = load_teacher(teacher, rows, column, read, classes)
                grad = add_gradients(
                    grad, _recall(kept, k * 3), _recall(kept, k * 3 + 1), _recall(kept, k * 3 + 2),
                    tl.where(mask, z, -_INF), v, teacher, rows, column, is_label, classes, param0,
                    DIVERGENCE,
                )  # fmt: skip
        store_student_grad(student, grad, rows, column)


@triton.jit(do_not_specialize=["num_rows"])
def _mean_kernel(  # type: ignore[no-untyped-def]
    labels, label_stride, scale, num_rows, ignore_index, ROWS: tl.constexpr
):  # fmt: skip
    """One program: 1 / (number of labels that are not ignored)."""
    count = tl.zeros([ROWS], tl.int32)
    for first in range(0, num_rows, ROWS):
        index = first + tl.arange(0, ROWS)
        offset = index.to(tl.int64) * label_stride
        label = tl.load(labels + offset, mask=index < num_rows, other=ignore_index)
        count += (label != ignore_index).to(tl.int32)
    tl.store(scale, 1.0 / tl.maximum(tl.sum(count, 0), 1).to(tl.float32))


@triton.jit
def _position_kernel(  # type: ignore[no-untyped-def]
    columns, position, num_columns, classes, COLUMNS: tl.constexpr
):  # fmt: skip
    """Invert an index list; a class out of range marks the entry after the last."""
    index = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    listed = tl.load(columns + index, mask=index < num_columns, other=0)
    listed = tl.where((listed >= 0) & (listed < classes), listed, classes)
    tl.store(position + listed, index, mask=index < num_columns)


# --- launches -----------------------------------------------------------------------------------


def _student(logits: Tensor, grad: Tensor) -> Student:
    row_stride, column_stride = logits.stride()
    classes = logits.shape[1]
    unit = math.gcd(16, row_stride, classes)
    return Student(
        logits, row_stride // unit, column_stride, classes // unit, grad, tl.constexpr(unit)
    )


def _teacher(p: Problem, k: int, grad: Tensor | None) -> Teacher:
    logits, start = p.teachers[k], p.starts[k]
    row_stride, column_stride = logits.stride()
    classes = logits.shape[1]
    unit = math.gcd(16, row_stride, classes, start)
    listed = bool(p.columns) and p.columns[k].numel() > 0
    return Teacher(
        logits,
        row_stride // unit,
        column_stride,
        classes // unit,
        start // unit,
        _position(p.columns[k], p.student.shape[1]) if listed else None,
        p.temperatures[k],
        grad,
        tl.constexpr(unit),
    )


def _position(columns: Tensor, classes: int) -> Tensor:
    position = columns.new_full((classes + 1,), -1, dtype=torch.int32)
    grid = (triton.cdiv(columns.numel(), 1024),)
    _position_kernel[grid](columns, position, columns.numel(), classes, COLUMNS=1024)
    return position


def _launch(p: Problem, row_loss: Tensor, grad: Tensor, teacher_grads: list[Tensor]) -> None:
    rows, classes = p.student.shape
    num_teachers = len(p.teachers)
    own_grads: Sequence[Tensor | None] = teacher_grads or [None] * num_teachers
    labels = (p.labels, p.labels.stride(0))
    scale = None
    if p.reduction == REDUCTIONS["mean"]:
        scale = row_loss.new_empty(())
        _mean_kernel[(1,)](*labels, scale, rows, p.ignore_index, ROWS=1024)
    weights = Weights(None, 0, 0)
    if p.weights is not None:
        weights = Weights(p.weights, *(0, *p.weights.stride())[-2:])
    sources = (
        _student(p.student, grad),
        tuple(_teacher(p, k, own) for k, own in enumerate(own_grads)),
        *labels,
        weights,
        scale,
        row_loss,
    )
    param0, param1 = (*p.divergence_params, 0.0, 0.0)[:2]
    numbers = (rows, p.ignore_index, p.alpha, p.label_smoothing, param0, param1)
    kinds = {"K": num_teachers, "WEIGHTING": p.weighting, "DIVERGENCE": p.divergence}
    # Given the choice, ptxas spills a few bytes of the longest kernels to fit one more block.
    registers = 255 if p.teacher_grad or num_teachers > 8 else None
    for tile in TILES:
        if classes <= tile.classes:
            _tile_kernel[(triton.cdiv(rows, tile.rows),)](
                *sources, *numbers, **kinds, ROWS=tile.rows, CLASSES=tile.classes,
                num_warps=tile.warps, maxnreg=registers,
            )  # fmt: skip
            return
    kept = row_loss.new_empty(rows * num_teachers * _KEPT.value)
    _loop_kernel[(rows,)](
        *sources, kept, *numbers, **kinds, CLASSES=LOOP.classes,
        num_warps=LOOP.warps, maxnreg=registers,
    )  # fmt: skip


_INTERPRETED = not isinstance(_tile_kernel, triton.JITFunction)


def _check(p: Problem) -> None:
    """What this backend refuses beyond what edufast.ops.kd_loss checks."""
    if not (p.student.is_cuda or _INTERPRETED):
        raise ValueError(
            f"backend 'triton' runs on cuda; the logits are on {p.student.device.type} (where "
            "only Triton's interpreter runs: set TRITON_INTERPRET=1 before triton is imported)"
        )
    tensors = {"student": p.student, "labels": p.labels}
    tensors |= {f"teachers[{k}]": t for k, t in enumerate(p.teachers)}
    for name, tensor in tensors.items():
        if tensor.device != p.student.device:
            raise ValueError(
                f"{name} is on {tensor.device}; expected {p.student.device}, like student"
            )
        if tensor.dtype == torch.float64:
            raise TypeError(
                f"{name} is torch.float64; backend 'triton' takes float32, bfloat16 and float16"
            )


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    p = Problem(*arguments)
    _check(p)
    loss, grad, teacher_grads = _fake(*arguments)
    row_loss = loss if loss.dim() else loss.new_empty(len(p.student))
    if len(p.student):
        with torch.cuda.device_of(p.student):
            _launch(p, row_loss, grad, teacher_grads)
    return (loss if loss.dim() else row_loss.sum()), grad, teacher_grads


# An opaque operator, not a triton_op: that would let Inductor see the kernel, which has nothing to
# fuse with, but would depend on Inductor taking tuples as kernel arguments.
_SCHEMA = str(torch.ops.edufast.kd_loss.default._schema).removeprefix("edufast::kd_loss")
torch.library.define("edufast::kd_loss_triton", _SCHEMA)
torch.library.impl("edufast::kd_loss_triton", ("cpu", "cuda"), _forward)
kd_loss = torch.ops.edufast.kd_loss_triton.default
register(kd_loss)
