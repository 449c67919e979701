# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The fused multi-teacher loss in Triton: semantics as in edufast/ops/reference/kd_loss.py.

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
from edufast.kernels._common import (
    any_row,
    check_logits,
    classes_of,
    load_pair,
    load_student,
    load_teacher,
    number,
    student_of,
    teacher_of,
    touches,
)
from edufast.kernels.kd_loss_divergences import JS, accumulate_mixture, empty_sums, parameters
from edufast.kernels.kd_loss_tiles import (
    accumulate_tile,
    add_gradients,
    add_student,
    conclude_rows,
    cross_entropy,
    cross_entropy_gradient,
    load_rows,
    no_student_sums,
    store_student_grad,
    store_teacher_grad,
)
from edufast.kernels.kd_loss_weights import Weights, teacher_weights
from torch import Tensor

from edufast.ops._library import define_like
from edufast.ops.kd_loss import empty_results, register_kd_loss
from edufast.ops.reference.kd_loss import REDUCTIONS, KDLoss, Numbers, numbers_of

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
def _tile_kernel(
    student, teachers, labels, label_stride, weights, scale, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, WEIGHTING: tl.constexpr, DIVERGENCE: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    alpha, smoothing = tl.full([ROWS], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
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
            t, mask = load_teacher(teacher, rows, column, read, classes)
            zk = tl.where(mask, z, -_INF)
            temperature = number(teacher.temperature)
            sums = accumulate_tile(empty_sums(ROWS), zk, t, is_label, temperature, DIVERGENCE)
            if DIVERGENCE == JS:
                sums = accumulate_mixture(sums, sums, zk, t, temperature, param0, param1)
            added, of_student, of_teacher = conclude_rows(
                sums, teacher, rows, read, weight[k], classes, alpha, param0, param1, scale,
                DIVERGENCE,
            )  # fmt: skip
            value += added
            grad = add_gradients(
                grad, sums, of_student, of_teacher, zk, t, teacher, rows, column, is_label, classes,
                param0, param1, DIVERGENCE,
            )  # fmt: skip
        elif teacher.grad is not None:
            store_teacher_grad(teacher, tl.zeros_like(grad), rows, column, classes)
        # Registers: without it the loads of all teachers would be issued, and kept, at once.
        tl.debug_barrier()

    store_student_grad(student, grad, rows, column)
    tl.store(loss + rows.index, tl.where(rows.valid, value * scale, 0.0), mask=rows.exists)


# Per row and teacher between the visits: four sums, and five coefficients of either gradient.
_SUMS, _COEFFICIENTS, _KEPT = tl.constexpr(4), tl.constexpr(5), tl.constexpr(14)


@triton.jit
def _keep(kept, numbers, N: tl.constexpr):
    for i in tl.static_range(N):
        tl.store(kept + i, numbers[i])


@triton.jit
def _recall(kept, N: tl.constexpr):
    numbers = ()
    for i in tl.static_range(N):
        numbers += (tl.load(kept + i),)
    return numbers


@triton.jit(do_not_specialize=["num_rows"])
def _loop_kernel(
    student, teachers, labels, label_stride, weights, scale, loss, kept, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, WEIGHTING: tl.constexpr, DIVERGENCE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    alpha, smoothing = tl.full([1], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
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
        temperature = number(teacher.temperature)
        read = rows.valid & (weight[k] != 0) & (alpha != 1)
        busy = any_row(read)
        sums = empty_sums(1)
        for first in range(0, classes, CLASSES):
            column = first + columns
            if k == 0:
                z = load_student(student, rows, column)
                student_sums = add_student(student_sums, z, first, column, classes)
            if busy & touches(teacher, first, CLASSES):
                zk, t = load_pair(student, teacher, rows, column, read)
                is_label = rows.label[:, None] == column[None, :]
                sums = accumulate_tile(sums, zk, t, is_label, temperature, DIVERGENCE)
        if DIVERGENCE == JS:
            whole = sums
            for first in range(0, classes, CLASSES):
                if busy & touches(teacher, first, CLASSES):
                    zk, t = load_pair(student, teacher, rows, first + columns, read)
                    sums = accumulate_mixture(sums, whole, zk, t, temperature, param0, param1)
        added, of_student, of_teacher = conclude_rows(
            sums, teacher, rows, read, weight[k], classes, alpha, param0, param1, scale, DIVERGENCE
        )
        value += added
        _keep(kept + k * _KEPT, sums, _SUMS)
        _keep(kept + k * _KEPT + _SUMS, of_student, _COEFFICIENTS)
        _keep(kept + k * _KEPT + _SUMS + _COEFFICIENTS, of_teacher, _COEFFICIENTS)
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
                t, mask = load_teacher(teacher, rows, column, read, classes)
                teacher_sums = _recall(kept + k * _KEPT, _SUMS)
                of_student = _recall(kept + k * _KEPT + _SUMS, _COEFFICIENTS)
                of_teacher = _recall(kept + k * _KEPT + _SUMS + _COEFFICIENTS, _COEFFICIENTS)
                grad = add_gradients(
                    grad, teacher_sums, of_student, of_teacher, tl.where(mask, z, -_INF), t,
                    teacher, rows, column, is_label, classes, param0, param1, DIVERGENCE,
                )  # fmt: skip
        store_student_grad(student, grad, rows, column)


@triton.jit(do_not_specialize=["num_rows"])
def _mean_kernel(labels, label_stride, scale, num_rows, ignore_index, ROWS: tl.constexpr):
    """One program: 1 / (number of labels that are not ignored)."""
    count = tl.zeros([ROWS], tl.int32)
    for first in range(0, num_rows, ROWS):
        index = first + tl.arange(0, ROWS)
        offset = index.to(tl.int64) * label_stride
        label = tl.load(labels + offset, mask=index < num_rows, other=ignore_index)
        count += (label != ignore_index).to(tl.int32)
    tl.store(scale, 1.0 / tl.maximum(tl.sum(count, 0), 1).to(tl.float32))


# --- launches -----------------------------------------------------------------------------------


def _numbers(p: KDLoss) -> Numbers:
    """Floats, or tensors on the device: an alpha of NaN, and thus the loss, if one is wrong."""
    p = p.with_floats()
    n = numbers_of(p)
    if p.numbers is None:
        return n
    right = n.are_in_range(p.divergence_name)
    return n._replace(alpha=torch.where(torch.as_tensor(right), n.alpha, math.nan))


def _launch(p: KDLoss, row_loss: Tensor, grad: Tensor, teacher_grads: list[Tensor]) -> None:
    n = _numbers(p)
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
        student_of(p.student, grad),
        tuple(
            teacher_of(
                t,
                p.columns[k] if p.columns else None,
                p.starts[k],
                n.temperatures[k],
                classes,
                own_grads[k],
            )
            for k, t in enumerate(p.teachers)
        ),
        *labels,
        weights,
        scale,
        row_loss,
    )
    param0, param1 = parameters(p.divergence, n.divergence_params)
    numbers = (rows, p.ignore_index, n.alpha, n.label_smoothing, param0, param1)
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


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    p = KDLoss(*arguments)
    p.check()
    check_logits(student=p.student, **{f"teachers[{k}]": t for k, t in enumerate(p.teachers)})
    loss, grad, teacher_grads = empty_results(p)
    row_loss = loss if loss.dim() else loss.new_empty(len(p.student))
    if len(p.student):
        with torch.cuda.device_of(p.student):
            _launch(p, row_loss, grad, teacher_grads)
    return (loss if loss.dim() else row_loss.sum()), grad, teacher_grads


kd_loss = define_like(torch.ops.edufast.kd_loss.default, "kd_loss_triton", _forward)
register_kd_loss(kd_loss)
