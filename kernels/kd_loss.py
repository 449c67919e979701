# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The fused multi-teacher loss in Triton: semantics as in edufast/ops/reference/kd_loss.py.

Rows that fit a tile are read once and stay in registers (``_tile_kernel``); longer ones are read
twice, first for an online softmax (``_sums_kernel``), then for the gradient (``_gradient_kernel``).
In both, a divergence becomes a few coefficients per row and teacher before any gradient is written.
Registers hold fp32.
"""

from __future__ import annotations

import math
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
    number,
    pick,
    student_of,
    teachers_of,
    touches,
)
from edufast.kernels.kd_loss_divergences import (
    FORWARD_KL,
    JS,
    REVERSE_KL,
    accumulate_mixture,
    empty_sums,
    parameters,
)
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
from edufast.kernels.kd_loss_weights import Weights, weight_of, weights_kernel
from torch import Tensor

from edufast.ops._library import define_like
from edufast.ops.kd_loss import empty_results, register_kd_loss
from edufast.ops.reference.kd_loss import REDUCTIONS, KDLoss, Numbers, numbers_of
from edufast.ops.reference.kd_loss_weights import WEIGHTINGS


class Tile(NamedTuple):
    """What a program holds at a time."""

    rows: int
    classes: int


# A row takes the first tile that holds it; of longer ones a program takes as much at a time.
TILES = (Tile(8, 16), Tile(4, 32), Tile(2, 64), *(Tile(1, 2**n) for n in range(7, 13)))
LOOP = Tile(1, 4096)


def warps_of(tile: Tile, divergence: int, teacher_grad: bool) -> int:
    """As few as registers allow: what is done once a row costs least, and nothing is exchanged.

    tests/ops/test_triton_offline.py proves that none of the tiles spills.
    """
    values = 32 if divergence in (FORWARD_KL.value, REVERSE_KL.value) else 16  # of a thread
    return max(1, tile.rows * tile.classes // (32 * (values // 2 if teacher_grad else values)))


# --- kernels ------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["num_rows"])
def _tile_kernel(
    student, teachers, shared, labels, label_stride, weights, count, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1,
    K: tl.constexpr, DIVERGENCE: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    alpha, smoothing = tl.full([ROWS], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
    scale = _scale_of(count)
    column = tl.arange(0, CLASSES)
    rows = load_rows(tl.program_id(0), student, labels, label_stride, num_rows, ignore_index, ROWS)
    is_label = rows.label[:, None] == column[None, :]

    z = load_student(student, rows, column)
    student_sums = add_student(no_student_sums(ROWS), z, 0, column, classes)
    value, slope = cross_entropy(student_sums, rows, classes, alpha, smoothing)
    grad = cross_entropy_gradient(z, student_sums, slope * scale, is_label, classes, smoothing)

    for k in range(K):
        teacher = pick(teachers, shared, k, K)
        weight = weight_of(weights, rows, k, K)
        read = rows.valid & (weight != 0) & (alpha != 1)
        if any_row(read):
            zk, t = load_pair(student, teacher, shared, rows, column, read)
            temperature = teacher.temperature
            sums = accumulate_tile(empty_sums(ROWS), zk, t, is_label, temperature, DIVERGENCE)
            if DIVERGENCE == JS:
                sums = accumulate_mixture(sums, sums, zk, t, temperature, param0, param1)
            added, of_student, of_teacher = conclude_rows(
                sums, teacher, shared, rows, read, weight, classes, alpha, param0, param1, scale,
                DIVERGENCE,
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


# Numbers of a row and teacher: part of the loss, sums, coefficients of either gradient.
_SUMS, _COEFFICIENTS = tl.constexpr(4), tl.constexpr(5)
_STUDENT = tl.constexpr(1 + 4)  # first of the coefficients
_TEACHER = tl.constexpr(1 + 4 + 5)
_NUMBERS = tl.constexpr(1 + 4 + 5 + 5)


@triton.jit
def _store_numbers(place, numbers, N: tl.constexpr):
    for i in tl.static_range(N):
        tl.store(place + i, numbers[i])


@triton.jit
def _load_numbers(place, N: tl.constexpr):
    numbers = ()
    for i in tl.static_range(N):
        numbers += (tl.load(place + i),)
    return numbers


@triton.jit
def _student_numbers(student, rows, classes, alpha, smoothing, scale, CLASSES: tl.constexpr):
    sums = no_student_sums(1)
    for first in range(0, classes, CLASSES):
        column = first + tl.arange(0, CLASSES)
        sums = add_student(sums, load_student(student, rows, column), first, column, classes)
    value, slope = cross_entropy(sums, rows, classes, alpha, smoothing)
    return value, sums[0], sums[1], slope * scale


@triton.jit
def _teacher_sums(
    student, teacher, shared, rows, read, classes, param0, param1,
    DIVERGENCE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    sums = empty_sums(1)
    for first in range(0, classes, CLASSES):
        if any_row(read) & touches(teacher, shared, first, CLASSES):
            column = first + tl.arange(0, CLASSES)
            is_label = rows.label[:, None] == column[None, :]
            z, t = load_pair(student, teacher, shared, rows, column, read)
            sums = accumulate_tile(sums, z, t, is_label, teacher.temperature, DIVERGENCE)
    if DIVERGENCE == JS:
        whole = sums
        for first in range(0, classes, CLASSES):
            if any_row(read) & touches(teacher, shared, first, CLASSES):
                column = first + tl.arange(0, CLASSES)
                z, t = load_pair(student, teacher, shared, rows, column, read)
                sums = accumulate_mixture(sums, whole, z, t, teacher.temperature, param0, param1)
    return sums


@triton.jit(do_not_specialize=["num_rows"])
def _sums_kernel(
    student, teachers, shared, labels, label_stride, weights, count, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1, numbers,
    K: tl.constexpr, DIVERGENCE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The first visit: a program for each row and teacher, and one for the row's cross-entropy."""
    alpha, smoothing = tl.full([1], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
    scale = _scale_of(count)
    row, k = tl.program_id(0) // (K + 1), tl.program_id(0) % (K + 1)
    rows = load_rows(row, student, labels, label_stride, num_rows, ignore_index, 1)
    place = numbers + (rows.index * (K + 1) + k) * _NUMBERS
    if k == K:
        found = _student_numbers(student, rows, classes, alpha, smoothing, scale, CLASSES)
        _store_numbers(place, found, 4)
    else:
        teacher = pick(teachers, shared, k, K)
        weight = weight_of(weights, rows, k, K)
        read = rows.valid & (weight != 0) & (alpha != 1)
        sums = _teacher_sums(
            student, teacher, shared, rows, read, classes, param0, param1, DIVERGENCE, CLASSES
        )
        value, of_student, of_teacher = conclude_rows(
            sums, teacher, shared, rows, read, weight, classes, alpha, param0, param1, scale,
            DIVERGENCE,
        )  # fmt: skip
        tl.store(place, value)
        _store_numbers(place + 1, sums, _SUMS)
        _store_numbers(place + _STUDENT, of_student, _COEFFICIENTS)
        _store_numbers(place + _TEACHER, of_teacher, _COEFFICIENTS)


@triton.jit(do_not_specialize=["num_rows"])
def _gradient_kernel(
    student, teachers, shared, labels, label_stride, weights, count, loss, num_rows, ignore_index,
    alpha, smoothing, param0, param1, numbers,
    K: tl.constexpr, DIVERGENCE: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The second visit: a program for each row and tile of classes; the first adds up the loss."""
    alpha, smoothing = tl.full([1], number(alpha), tl.float32), number(smoothing)
    param0, param1 = number(param0), number(param1)
    classes = classes_of(student)
    tiles = tl.cdiv(classes, CLASSES)
    row, first = tl.program_id(0) // tiles, tl.program_id(0) % tiles * CLASSES
    rows = load_rows(row, student, labels, label_stride, num_rows, ignore_index, 1)
    numbers += rows.index * ((K + 1) * _NUMBERS)
    column = first + tl.arange(0, CLASSES)
    is_label = rows.label[:, None] == column[None, :]
    value, top, total, slope = _load_numbers(numbers + K * _NUMBERS, 4)
    z = load_student(student, rows, column)
    grad = cross_entropy_gradient(z, (top, total), slope, is_label, classes, smoothing)
    for k in range(K):
        teacher = pick(teachers, shared, k, K)
        place = numbers + k * _NUMBERS
        value += tl.load(place)
        read = rows.valid & (weight_of(weights, rows, k, K) != 0) & (alpha != 1)
        busy = any_row(rows.exists if shared.has_grad else read)
        if busy & touches(teacher, shared, first, CLASSES):
            z, t = load_pair(student, teacher, shared, rows, column, read)
            grad = add_gradients(
                grad, _load_numbers(place + 1, _SUMS),
                _load_numbers(place + _STUDENT, _COEFFICIENTS),
                _load_numbers(place + _TEACHER, _COEFFICIENTS),
                z, t, teacher, shared, rows, column, is_label, classes, param0, param1, DIVERGENCE,
            )  # fmt: skip
    store_student_grad(student, grad, rows, column)
    if first == 0:
        tl.store(loss + rows.index, tl.where(rows.valid, value * _scale_of(count), 0.0))


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
    teachers, shared, _kept = teachers_of(
        p.teachers, p.columns, p.starts, n.temperatures, classes, teacher_grads
    )
    student = student_of(p.student, grad)
    tile = next((tile for tile in TILES if classes <= tile.classes), LOOP)
    looped = classes > tile.classes
    grid = (triton.cdiv(rows, tile.rows),)
    warps = warps_of(tile, p.divergence, p.teacher_grad)
    sizes = {"K": num_teachers, "CLASSES": tile.classes, "num_warps": warps}
    # Given the choice, ptxas spills a few bytes of the longest kernels to fit one more block.
    if p.teacher_grad or p.divergence == JS.value or num_teachers > 8:
        sizes["maxnreg"] = min(255, 2048 // warps)
    weights = Weights(None, 0, 0)
    if p.weights is not None:
        weights = Weights(p.weights, *(0, *p.weights.stride())[-2:])
    elif p.weighting != WEIGHTINGS["mean"]:
        table = row_loss.new_empty(rows, num_teachers)
        weights = Weights(table, num_teachers, 1)
        weights_kernel[grid](
            student, teachers, shared, *labels, weights, rows, p.ignore_index, **sizes,
            SIZE=triton.next_power_of_2(num_teachers), WEIGHTING=p.weighting, ROWS=tile.rows,
            LOOP=looped,
        )  # fmt: skip
    arguments = (
        student, teachers, shared, *labels, weights, count, row_loss, rows, p.ignore_index, n.alpha,
        n.label_smoothing, *parameters(p.divergence, n.divergence_params),
    )  # fmt: skip
    if looped:
        numbers = row_loss.new_empty(rows, num_teachers + 1, _NUMBERS.value)
        tiles = triton.cdiv(classes, tile.classes)
        options = sizes | {"DIVERGENCE": p.divergence}
        _sums_kernel[(rows * (num_teachers + 1),)](*arguments, numbers, **options)
        _gradient_kernel[(rows * tiles,)](*arguments, numbers, **options)
    else:
        _tile_kernel[grid](*arguments, **sizes, DIVERGENCE=p.divergence, ROWS=tile.rows)


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
