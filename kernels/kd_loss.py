# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The fused multi-teacher loss in Triton: semantics as in edufast/ops/reference/kd_loss.py.

Rows that fit a tile are read once and stay in registers (``_tile_kernel``); longer ones are read
twice, first for an online softmax, then for the gradient (``_loop_kernel``). In both, a divergence
becomes a few coefficients per row and teacher before any gradient is written. Registers hold fp32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from edufast.kernels._common import (
    any_row,
    at,
    check_logits,
    classes_of,
    load_student,
    load_teacher,
    number,
    pick,
    put,
    student_of,
    teachers_of,
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
    student, teachers, shared, labels, label_stride, weights, count, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, SIZE: tl.constexpr, WEIGHTING: tl.constexpr, DIVERGENCE: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    alpha, smoothing = tl.full([ROWS], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
    scale = _scale_of(count)
    column = tl.arange(0, CLASSES)
    rows = load_rows(student, labels, label_stride, num_rows, ignore_index, ROWS)
    is_label = rows.label[:, None] == column[None, :]
    weight = teacher_weights(
        weights, teachers, shared, rows, classes, K, SIZE, WEIGHTING, CLASSES, False
    )

    z = load_student(student, rows, column)
    student_sums = add_student(no_student_sums(ROWS), z, 0, column, classes)
    value, slope = cross_entropy(student_sums, rows, classes, alpha, smoothing)
    grad = cross_entropy_gradient(z, student_sums, slope * scale, is_label, classes, smoothing)

    for k in range(K):
        teacher = pick(teachers, shared, k, K)
        own_weight = at(weight, k)
        read = rows.valid & (own_weight != 0) & (alpha != 1)
        if any_row(read):
            t, mask = load_teacher(teacher, shared, rows, column, read, classes)
            zk = tl.where(mask, z, -_INF)
            temperature = teacher.temperature
            sums = accumulate_tile(empty_sums(ROWS), zk, t, is_label, temperature, DIVERGENCE)
            if DIVERGENCE == JS:
                sums = accumulate_mixture(sums, sums, zk, t, temperature, param0, param1)
            added, of_student, of_teacher = conclude_rows(
                sums, teacher, shared, rows, read, own_weight, classes, alpha, param0, param1,
                scale, DIVERGENCE,
            )  # fmt: skip
            value += added
            grad = add_gradients(
                grad, sums, of_student, of_teacher, zk, t, teacher, shared, rows, column, is_label,
                classes, param0, param1, DIVERGENCE,
            )  # fmt: skip
        elif shared.has_grad:
            store_teacher_grad(teacher, shared, tl.zeros_like(grad), rows, column, classes)

    store_student_grad(student, grad, rows, column)
    tl.store(loss + rows.index, tl.where(rows.valid, value * scale, 0.0), mask=rows.exists)


# Of a row and teacher: four sums for both visits, two more for the first; five coefficients of
# either gradient.
_SUMS, _KEPT, _COEFFICIENTS = tl.constexpr(6), tl.constexpr(4), tl.constexpr(5)


@triton.jit
def _take(tables, k, N: tl.constexpr):
    """Column ``k`` of each of N tables."""
    found = ()
    for i in tl.static_range(N):
        found += (at(tables[i], k),)
    return found


@triton.jit
def _put_all(tables, k, numbers, N: tl.constexpr):
    found = ()
    for i in tl.static_range(N):
        found += (put(tables[i], k, numbers[i]),)
    return found


@triton.jit(do_not_specialize=["num_rows"])
def _loop_kernel(
    student, teachers, shared, labels, label_stride, weights, count, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, SIZE: tl.constexpr, WEIGHTING: tl.constexpr, DIVERGENCE: tl.constexpr,
    CLASSES: tl.constexpr,
):  # fmt: skip
    alpha, smoothing = tl.full([1], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
    scale = _scale_of(count)
    columns = tl.arange(0, CLASSES)
    rows = load_rows(student, labels, label_stride, num_rows, ignore_index, 1)
    weight = teacher_weights(
        weights, teachers, shared, rows, classes, K, SIZE, WEIGHTING, CLASSES, True
    )

    # First visit.
    zero = tl.zeros([1, SIZE], tl.float32)
    student_sums = no_student_sums(1)
    sums = (zero - _INF, zero, zero - _INF, zero, zero, zero)
    for first in range(0, classes, CLASSES):
        column = first + columns
        is_label = rows.label[:, None] == column[None, :]
        z = load_student(student, rows, column)
        student_sums = add_student(student_sums, z, first, column, classes)
        for k in range(K):
            teacher = pick(teachers, shared, k, K)
            read = rows.valid & (at(weight, k) != 0) & (alpha != 1)
            if any_row(read) & touches(teacher, shared, first, CLASSES):
                t, mask = load_teacher(teacher, shared, rows, column, read, classes)
                zk = tl.where(mask, z, -_INF)
                own = accumulate_tile(
                    _take(sums, k, _SUMS), zk, t, is_label, teacher.temperature, DIVERGENCE
                )
                sums = _put_all(sums, k, own, _SUMS)
    if DIVERGENCE == JS:
        whole = sums
        for first in range(0, classes, CLASSES):
            column = first + columns
            z = load_student(student, rows, column)
            for k in range(K):
                teacher = pick(teachers, shared, k, K)
                read = rows.valid & (at(weight, k) != 0) & (alpha != 1)
                if any_row(read) & touches(teacher, shared, first, CLASSES):
                    t, mask = load_teacher(teacher, shared, rows, column, read, classes)
                    own = accumulate_mixture(
                        _take(sums, k, _SUMS), _take(whole, k, _SUMS), tl.where(mask, z, -_INF), t,
                        teacher.temperature, param0, param1,
                    )  # fmt: skip
                    sums = _put_all(sums, k, own, _SUMS)

    value, slope = cross_entropy(student_sums, rows, classes, alpha, smoothing)
    of_students = (zero, zero, zero, zero, zero)
    of_teachers = (zero, zero, zero, zero, zero)
    for k in range(K):
        own_weight = at(weight, k)
        read = rows.valid & (own_weight != 0) & (alpha != 1)
        added, of_student, of_teacher = conclude_rows(
            _take(sums, k, _SUMS), pick(teachers, shared, k, K), shared, rows, read, own_weight,
            classes, alpha, param0, param1, scale, DIVERGENCE,
        )  # fmt: skip
        value += added
        of_students = _put_all(of_students, k, of_student, _COEFFICIENTS)
        of_teachers = _put_all(of_teachers, k, of_teacher, _COEFFICIENTS)
    tl.store(loss + rows.index, tl.where(rows.valid, value * scale, 0.0))

    # Second visit.
    for first in range(0, classes, CLASSES):
        column = first + columns
        is_label = rows.label[:, None] == column[None, :]
        z = load_student(student, rows, column)
        grad = cross_entropy_gradient(z, student_sums, slope * scale, is_label, classes, smoothing)
        for k in range(K):
            teacher = pick(teachers, shared, k, K)
            read = rows.valid & (at(weight, k) != 0) & (alpha != 1)
            busy = any_row(rows.exists if shared.has_grad else read)
            if busy & touches(teacher, shared, first, CLASSES):
                t, mask = load_teacher(teacher, shared, rows, column, read, classes)
                grad = add_gradients(
                    grad, _take(sums, k, _KEPT), _take(of_students, k, _COEFFICIENTS),
                    _take(of_teachers, k, _COEFFICIENTS), tl.where(mask, z, -_INF), t,
                    teacher, shared, rows, column, is_label, classes, param0, param1, DIVERGENCE,
                )  # fmt: skip
        store_student_grad(student, grad, rows, column)


@triton.jit(do_not_specialize=["num_rows"])
def _count_kernel(labels, label_stride, count, num_rows, ignore_index, ROWS: tl.constexpr):
    """Add up the labels that are not ignored; integers, whose sum is the same in any order."""
    index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(labels + index * label_stride, mask=index < num_rows, other=ignore_index)
    tl.atomic_add(count, tl.sum((label != ignore_index).to(tl.int32), 0))


@triton.jit
def _scale_of(count):
    """1 / count, at least 1; without a count: 1."""
    if count is None:
        return 1.0
    else:
        return 1.0 / tl.maximum(tl.load(count), 1).to(tl.float32)


# --- launches -----------------------------------------------------------------------------------

_COUNTED = 1024  # labels of a program


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
    labels = (p.labels, p.labels.stride(0))
    count = None
    if p.reduction == REDUCTIONS["mean"]:
        count = row_loss.new_zeros((), dtype=torch.int32)
        grid = (triton.cdiv(rows, _COUNTED),)
        _count_kernel[grid](*labels, count, rows, p.ignore_index, ROWS=_COUNTED)
    weights = Weights(None, 0, 0)
    if p.weights is not None:
        weights = Weights(p.weights, *(0, *p.weights.stride())[-2:])
    teachers, shared, _kept = teachers_of(
        p.teachers, p.columns, p.starts, n.temperatures, classes, teacher_grads
    )
    sources = (student_of(p.student, grad), teachers, shared, *labels, weights, count, row_loss)
    param0, param1 = parameters(p.divergence, n.divergence_params)
    numbers = (rows, p.ignore_index, n.alpha, n.label_smoothing, param0, param1)
    size = triton.next_power_of_2(num_teachers)
    kinds = {
        "K": num_teachers, "SIZE": size, "WEIGHTING": p.weighting, "DIVERGENCE": p.divergence
    }  # fmt: skip
    # Given the choice, ptxas spills a few bytes of the longest kernels to fit one more block.
    registers = 255 if p.teacher_grad or num_teachers > 8 else None
    for tile in TILES:
        if classes <= tile.classes:
            _tile_kernel[(triton.cdiv(rows, tile.rows),)](
                *sources, *numbers, **kinds, ROWS=tile.rows, CLASSES=tile.classes,
                num_warps=tile.warps, maxnreg=registers,
            )  # fmt: skip
            return
    _loop_kernel[(rows,)](
        *sources, *numbers, **kinds, CLASSES=LOOP.classes,
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
