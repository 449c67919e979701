# mypy: disallow-untyped-defs=False
"""DIST in Triton: semantics as in edufast/ops/reference/dist_loss.py.

Four launches: softmax and correlation of each row; moments of each column over chunks of rows,
centred tile by tile so that fp32 suffices; the chunks merged; the gradient, with the loss. What a
launch leaves for the next is a few numbers per row and per column, never a matrix.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from edufast.kernels._common import add_to_softmax, check_logits, finite, number
from torch import Tensor

from edufast.ops._library import define_like
from edufast.ops.dist_loss import empty_results, register_dist_loss
from edufast.ops.reference.dist_loss import EPSILON, FLAT, DistLoss

_INF = tl.constexpr(float("inf"))
_EPSILON = tl.constexpr(EPSILON)
_FLAT = tl.constexpr(FLAT)

# Numbers per row: shift and 1 / sum of both softmaxes, the correlation and its derivative,
# of_teacher q + of_student p up to a constant.
_P_SHIFT, _P_INVERSE, _Q_SHIFT, _Q_INVERSE, _OF_TEACHER, _OF_STUDENT, _CORRELATION = (
    tl.constexpr(i) for i in range(7)
)
_ROW_NUMBERS = 7
# Numbers per column and chunk: means of p and q, centred sums of pp, qq, pq. Merged: means and the
# derivative of the correlation, and last the correlation.
_COLUMN_NUMBERS = tl.constexpr(5)


class Logits(NamedTuple):
    """``row_stride`` and ``classes`` in units of ``unit`` elements: see _common.py."""

    data: Any
    row_stride: Any
    column_stride: Any
    classes: Any
    unit: Any


# --- device functions -------------------------------------------------------------------------


@triton.jit
def _load(x, row, column, num_rows, classes):
    offset = (
        row.to(tl.int64)[:, None] * (x.row_stride * x.unit)
        + column.to(tl.int64)[None, :] * x.column_stride
    )
    mask = (row < num_rows)[:, None] & (column < classes)[None, :]
    return tl.load(x.data + offset, mask=mask, other=-_INF).to(tl.float32)


@triton.jit
def _load_both(student, teacher, row, column, num_rows, classes):
    z = _load(student, row, column, num_rows, classes)
    return z, _load(teacher, row, column, num_rows, classes)


@triton.jit
def _settle_softmax(most, total):
    return finite(most), tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total))


@triton.jit
def _probabilities(x, shift, inverse, inverse_t):
    return tl.exp((x - shift[:, None]) * inverse_t) * inverse[:, None]


@triton.jit
def _products(z, t, softmaxes, inside, mean):
    """Sums over a row's tile of products of the probabilities minus their mean."""
    p_shift, p_inverse, q_shift, q_inverse, inverse_t = softmaxes
    p, q = (
        _probabilities(z, p_shift, p_inverse, inverse_t),
        _probabilities(t, q_shift, q_inverse, inverse_t),
    )
    dp = tl.where(inside[None, :], p - mean, 0.0)
    dq = tl.where(inside[None, :], q - mean, 0.0)
    return tl.sum(dp * dp, 1), tl.sum(dq * dq, 1), tl.sum(dp * dq, 1)


@triton.jit
def _correlation(n, p_mean, q_mean, pp, qq, pq):
    """The correlation, and its derivative's factors of the centred q and p."""
    p_flat = pp <= n * (p_mean * _FLAT) * (p_mean * _FLAT)
    q_flat = qq <= n * (q_mean * _FLAT) * (q_mean * _FLAT)
    flat = (p_flat | q_flat) & (pp == pp) & (qq == qq)  # which must not hide NaN
    p_norm = tl.sqrt(tl.where(flat, 1.0, pp))
    q_norm = tl.sqrt(tl.where(flat, 1.0, qq))
    inverse = tl.where(flat, 0.0, 1.0 / (p_norm * q_norm + _EPSILON))
    value = tl.where(flat, 0.0, pq * inverse)
    return value, inverse, -value * inverse * (q_norm / p_norm)


@triton.jit
def _merge(n, p, q, pp, qq, pq, more, p2, q2, pp2, qq2, pq2):
    """Moments of n and of `more` rows together (Chan et al. 1979)."""
    share = more / (n + more)
    dp = p2 - p
    dq = q2 - q
    return (
        n + more,
        p + dp * share,
        q + dq * share,
        pp + pp2 + dp * dp * (n * share),
        qq + qq2 + dq * dq * (n * share),
        pq + pq2 + dp * dq * (n * share),
    )


@triton.jit
def _row_number(numbers, which, row, num_rows):
    return tl.load(numbers + which * num_rows + row, mask=row < num_rows, other=0.0)


# --- kernels ----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["num_rows"])
def _rows_kernel(
    student, teacher, rows, num_rows, inverse_t, scale,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    inverse_t, scale = number(inverse_t), number(scale)
    classes = student.classes * student.unit
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, CLASSES)
    z, t = _load_both(student, teacher, row, columns, num_rows, classes)
    none, zero = tl.full([ROWS], -_INF, tl.float32), tl.zeros([ROWS], tl.float32)
    p_most, p_total = add_to_softmax(none, zero, z, inverse_t)
    q_most, q_total = add_to_softmax(none, zero, t, inverse_t)
    if not WHOLE:
        for first in range(CLASSES, classes, CLASSES):
            more_z, more_t = _load_both(student, teacher, row, first + columns, num_rows, classes)
            p_most, p_total = add_to_softmax(p_most, p_total, more_z, inverse_t)
            q_most, q_total = add_to_softmax(q_most, q_total, more_t, inverse_t)
    p_shift, p_inverse = _settle_softmax(p_most, p_total)
    q_shift, q_inverse = _settle_softmax(q_most, q_total)

    n = 1.0 * classes
    mean = 1.0 / n
    softmaxes = (p_shift, p_inverse, q_shift, q_inverse, inverse_t)
    pp, qq, pq = _products(z, t, softmaxes, columns < classes, mean)
    if not WHOLE:
        for first in range(CLASSES, classes, CLASSES):
            column = first + columns
            more_z, more_t = _load_both(student, teacher, row, column, num_rows, classes)
            more_pp, more_qq, more_pq = _products(more_z, more_t, softmaxes, column < classes, mean)
            pp, qq, pq = pp + more_pp, qq + more_qq, pq + more_pq
    empty = (p_inverse == 0.0) | (q_inverse == 0.0)
    value, of_teacher, of_student = _correlation(n, mean, mean, tl.where(empty, 0.0, pp), qq, pq)

    exists = row < num_rows
    tl.store(rows + _P_SHIFT * num_rows + row, p_shift, mask=exists)
    tl.store(rows + _P_INVERSE * num_rows + row, p_inverse, mask=exists)
    tl.store(rows + _Q_SHIFT * num_rows + row, q_shift, mask=exists)
    tl.store(rows + _Q_INVERSE * num_rows + row, q_inverse, mask=exists)
    tl.store(rows + _OF_TEACHER * num_rows + row, of_teacher * scale, mask=exists)
    tl.store(rows + _OF_STUDENT * num_rows + row, of_student * scale, mask=exists)
    tl.store(rows + _CORRELATION * num_rows + row, value, mask=exists)


@triton.jit(do_not_specialize=["num_rows", "chunk"])
def _columns_kernel(
    student, teacher, rows, partials, num_rows, chunk, inverse_t,
    ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    inverse_t = number(inverse_t)
    classes = student.classes * student.unit
    column = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, num_rows)
    n = 0.0
    p_mean = tl.zeros([CLASSES], tl.float32)
    q_mean = tl.zeros([CLASSES], tl.float32)
    pp = tl.zeros([CLASSES], tl.float32)
    qq = tl.zeros([CLASSES], tl.float32)
    pq = tl.zeros([CLASSES], tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < end)[:, None]
        z = _load(student, row, column, end, classes)
        t = _load(teacher, row, column, end, classes)
        p = _probabilities(
            z, _row_number(rows, _P_SHIFT, row, num_rows),
            _row_number(rows, _P_INVERSE, row, num_rows), inverse_t,
        )  # fmt: skip
        q = _probabilities(
            t, _row_number(rows, _Q_SHIFT, row, num_rows),
            _row_number(rows, _Q_INVERSE, row, num_rows), inverse_t,
        )  # fmt: skip
        p = tl.where(inside, p, 0.0)
        q = tl.where(inside, q, 0.0)
        more = tl.minimum(end - first, ROWS).to(tl.float32)
        p2 = tl.sum(p, 0) / more
        q2 = tl.sum(q, 0) / more
        dp = tl.where(inside, p - p2[None, :], 0.0)
        dq = tl.where(inside, q - q2[None, :], 0.0)
        n, p_mean, q_mean, pp, qq, pq = _merge(
            n, p_mean, q_mean, pp, qq, pq,
            more, p2, q2, tl.sum(dp * dp, 0), tl.sum(dq * dq, 0), tl.sum(dp * dq, 0),
        )  # fmt: skip
    exists = column < classes
    partials += tl.program_id(1).to(tl.int64) * _COLUMN_NUMBERS * classes + column
    tl.store(partials, p_mean, mask=exists)
    tl.store(partials + classes, q_mean, mask=exists)
    tl.store(partials + 2 * classes, pp, mask=exists)
    tl.store(partials + 3 * classes, qq, mask=exists)
    tl.store(partials + 4 * classes, pq, mask=exists)


@triton.jit(do_not_specialize=["num_rows", "chunk"])
def _merge_kernel(partials, columns, num_rows, classes, chunk, scale, CLASSES: tl.constexpr):
    scale = number(scale)
    column = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    exists = column < classes
    n = 0.0
    p_mean = tl.zeros([CLASSES], tl.float32)
    q_mean = tl.zeros([CLASSES], tl.float32)
    pp = tl.zeros([CLASSES], tl.float32)
    qq = tl.zeros([CLASSES], tl.float32)
    pq = tl.zeros([CLASSES], tl.float32)
    partials += column
    for first in range(0, num_rows, chunk):
        more = tl.minimum(num_rows - first, chunk).to(tl.float32)
        n, p_mean, q_mean, pp, qq, pq = _merge(
            n, p_mean, q_mean, pp, qq, pq,
            more,
            tl.load(partials, mask=exists, other=0.0),
            tl.load(partials + classes, mask=exists, other=0.0),
            tl.load(partials + 2 * classes, mask=exists, other=0.0),
            tl.load(partials + 3 * classes, mask=exists, other=0.0),
            tl.load(partials + 4 * classes, mask=exists, other=0.0),
        )  # fmt: skip
        partials += _COLUMN_NUMBERS * classes
    value, of_teacher, of_student = _correlation(n, p_mean, q_mean, pp, qq, pq)
    columns += column
    tl.store(columns, p_mean, mask=exists)
    tl.store(columns + classes, q_mean, mask=exists)
    tl.store(columns + 2 * classes, of_student * scale, mask=exists)
    tl.store(columns + 3 * classes, of_teacher * scale, mask=exists)
    tl.store(columns + 4 * classes, value, mask=exists)


@triton.jit
def _missing(correlations, size, CLASSES: tl.constexpr):
    """The mean of 1 - correlation."""
    total = tl.zeros([CLASSES], tl.float32)
    for first in range(0, size, CLASSES):
        i = first + tl.arange(0, CLASSES)
        total += 1.0 - tl.load(correlations + i, mask=i < size, other=1.0)
    return tl.sum(total, 0) / (1.0 * size)


@triton.jit(do_not_specialize=["num_rows"])
def _gradient_kernel(
    student, teacher, rows, columns, grad, loss, num_rows, inverse_t, beta, gamma,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    inverse_t, beta, gamma = number(inverse_t), number(beta), number(gamma)
    classes = student.classes * student.unit
    if tl.program_id(0) == 0:
        of_rows = _missing(rows + _CORRELATION * num_rows, num_rows, CLASSES)
        of_columns = _missing(columns + 4 * classes, classes, CLASSES)
        tl.store(loss, beta * of_rows + gamma * of_columns)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns_here = tl.arange(0, CLASSES)
    p, x = _slopes(student, teacher, rows, columns, row, columns_here, num_rows, classes, inverse_t)
    total = tl.sum(p * x, 1)
    if not WHOLE:
        for first in range(CLASSES, classes, CLASSES):
            column = first + columns_here
            more_p, more_x = _slopes(
                student, teacher, rows, columns, row, column, num_rows, classes, inverse_t
            )
            total += tl.sum(more_p * more_x, 1)
    _store_grad(grad, p * (x - total[:, None]), row, columns_here, num_rows, classes)
    if not WHOLE:
        for first in range(CLASSES, classes, CLASSES):
            column = first + columns_here
            more_p, more_x = _slopes(
                student, teacher, rows, columns, row, column, num_rows, classes, inverse_t
            )
            slope = more_p * (more_x - total[:, None])
            _store_grad(grad, slope, row, column, num_rows, classes)


@triton.jit
def _store_grad(grad, x, row, column, num_rows, classes):
    mask = (row < num_rows)[:, None] & (column < classes)[None, :]
    tl.store(grad + row.to(tl.int64)[:, None] * classes + column[None, :], x, mask=mask)


@triton.jit
def _slopes(student, teacher, rows, columns, row, column, num_rows, classes, inverse_t):
    """The student's probabilities, and the loss's derivative for them."""
    z = _load(student, row, column, num_rows, classes)
    t = _load(teacher, row, column, num_rows, classes)
    p = _probabilities(
        z, _row_number(rows, _P_SHIFT, row, num_rows),
        _row_number(rows, _P_INVERSE, row, num_rows), inverse_t,
    )  # fmt: skip
    q = _probabilities(
        t, _row_number(rows, _Q_SHIFT, row, num_rows),
        _row_number(rows, _Q_INVERSE, row, num_rows), inverse_t,
    )  # fmt: skip
    inside = column < classes
    columns += column
    dp = p - tl.load(columns, mask=inside, other=0.0)[None, :]
    dq = q - tl.load(columns + classes, mask=inside, other=0.0)[None, :]
    mean = 1.0 / classes  # the derivatives are large where rows hardly vary
    of_rows = (p - mean) * _row_number(rows, _OF_STUDENT, row, num_rows)[:, None] + (
        q - mean
    ) * _row_number(rows, _OF_TEACHER, row, num_rows)[:, None]
    of_columns = (
        dp * tl.load(columns + 2 * classes, mask=inside, other=0.0)[None, :]
        + dq * tl.load(columns + 3 * classes, mask=inside, other=0.0)[None, :]
    )
    return p, of_rows + of_columns


# --- launches ---------------------------------------------------------------------------------

# A tile of rows: up to 8 values a thread for each of student and teacher.
_MAX_CLASSES = 2048
_COLUMN_TILE = {"ROWS": 32, "CLASSES": 64, "num_warps": 4}
_PROGRAMS = 512  # enough for any GPU; more chunks of rows than these need are not made


def row_tile(classes: int) -> dict[str, int]:
    """What a program holds at a time, and its warps."""
    held = min(_MAX_CLASSES, triton.next_power_of_2(classes))
    rows = max(1, min(16, 256 // held))
    warps = max(1, held * rows // 256)
    return {"ROWS": rows, "CLASSES": held, "WHOLE": classes <= held, "num_warps": warps}


def _logits(x: Tensor) -> Logits:
    row_stride, column_stride = x.stride()
    classes = x.shape[1]
    unit = math.gcd(16, row_stride, classes)
    return Logits(x, row_stride // unit, column_stride, classes // unit, tl.constexpr(unit))


def _launch(p: DistLoss, loss: Tensor, grad: Tensor) -> None:
    num_rows, classes = p.student.shape
    student, teacher = _logits(p.student), _logits(p.teacher)
    n = p.with_floats().numbers_or_nan()  # a temperature of NaN makes the loss NaN
    inverse_t = 1 / n.temperature
    tile = row_tile(classes)
    row_grid = (triton.cdiv(num_rows, tile["ROWS"]),)

    groups = triton.cdiv(classes, _COLUMN_TILE["CLASSES"])
    tiles = triton.cdiv(num_rows, _COLUMN_TILE["ROWS"])
    chunk = triton.cdiv(tiles, triton.cdiv(_PROGRAMS, groups)) * _COLUMN_TILE["ROWS"]
    chunks = triton.cdiv(num_rows, chunk)
    rows = loss.new_empty(_ROW_NUMBERS * num_rows)
    partials = loss.new_empty(chunks * _COLUMN_NUMBERS.value * classes)
    columns = loss.new_empty(_COLUMN_NUMBERS.value * classes)

    scale = -n.temperature * n.beta / num_rows
    _rows_kernel[row_grid](student, teacher, rows, num_rows, inverse_t, scale, **tile)
    _columns_kernel[(groups, chunks)](
        student, teacher, rows, partials, num_rows, chunk, inverse_t, **_COLUMN_TILE
    )
    scale = -n.temperature * n.gamma / classes
    _merge_kernel[(triton.cdiv(classes, 128),)](
        partials, columns, num_rows, classes, chunk, scale, CLASSES=128
    )
    square = n.temperature**2
    _gradient_kernel[row_grid](
        student, teacher, rows, columns, grad, loss, num_rows, inverse_t,
        square * n.beta, square * n.gamma, **tile,
    )  # fmt: skip


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    p = DistLoss(*arguments)
    p.check()
    check_logits(student=p.student, teacher=p.teacher)
    loss, grad = empty_results(p)
    if not len(p.student):
        return loss.zero_(), grad
    with torch.cuda.device_of(p.student):
        _launch(p, loss, grad)
    return loss, grad


dist_loss = define_like(torch.ops.edufast.dist_loss.default, "dist_loss_triton", _forward)
register_dist_loss(dist_loss)
