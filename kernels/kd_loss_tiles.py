# mypy: disallow-untyped-defs=False
"""What the two kernels of kd_loss.py do with a tile of rows and classes."""

from __future__ import annotations

import triton
import triton.language as tl
from edufast.kernels._common import (
    Rows,
    classes_of,
    exp,
    finite,
    has_invalid_class,
    has_position,
    label_position,
    load_label,
    position_of,
    positive,
    rescale,
    write_teacher_grad,
)
from edufast.kernels.kd_loss_divergences import (
    DKD,
    accumulate,
    divergence,
    gradient,
    settled,
    softmax,
)

_INF = tl.constexpr(float("inf"))


@triton.jit
def load_rows(block, student, labels, label_stride, num_rows, ignore_index, ROWS: tl.constexpr):
    index = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = index < num_rows
    label = tl.load(labels + index * label_stride, mask=exists, other=ignore_index)
    valid = exists & (label != ignore_index)
    label = tl.where(valid & (label >= 0) & (label < classes_of(student)), label, -1).to(tl.int32)
    offset = (
        index * (student.row_stride * student.unit) + label.to(tl.int64) * student.column_stride
    )
    z_label = tl.load(student.data + offset, mask=label >= 0, other=float("nan")).to(tl.float32)
    return Rows(index, exists, valid, label, z_label)


# --- cross-entropy ------------------------------------------------------------------------------


@triton.jit
def no_student_sums(ROWS: tl.constexpr):
    zero = tl.zeros([ROWS], tl.float32)
    return zero - _INF, zero, zero


@triton.jit
def add_student(sums, z, first, column, classes):
    """Maximum, total of exponentials and plain sum, both relative to the maximum."""
    old_top, total, plain = sums
    top = tl.maximum(old_top, tl.max(z, 1))
    plain += first * (finite(old_top) - finite(top))
    total = rescale(total, exp(old_top - finite(top)))
    z -= finite(top)[:, None]
    plain += tl.sum(tl.where((column < classes)[None, :], z, 0.0), 1)
    return top, total + tl.sum(exp(z), 1), plain


@triton.jit
def cross_entropy(sums, rows, classes, alpha, smoothing):
    """Its value and the factor of its gradient, both times alpha."""
    top, total, plain = sums
    unsmoothed = tl.zeros_like(plain) + smoothing == 0
    smooth = tl.where(unsmoothed, 0.0, smoothing * settled(-plain / classes))
    value = tl.log(positive(total)) - (1.0 - smoothing) * (rows.z_label - finite(top)) + smooth
    value = tl.where(total == 0, _INF, value)
    return tl.where(alpha == 0, 0.0, alpha * value), tl.where(rows.valid & (total != 0), alpha, 0.0)


@triton.jit
def cross_entropy_gradient(z, sums, slope, is_label, classes, smoothing):
    _, p = softmax(z, sums[0], sums[1], 1.0)
    grad = slope[:, None] * (p - (tl.where(is_label, 1.0 - smoothing, 0.0) + smoothing / classes))
    return tl.where(slope[:, None] == 0, 0.0, grad)


# --- divergences --------------------------------------------------------------------------------


@triton.jit
def accumulate_tile(sums, z, t, is_label, temperature, DIVERGENCE: tl.constexpr):
    if DIVERGENCE == DKD:
        z, t = tl.where(is_label, -_INF, z), tl.where(is_label, -_INF, t)
    return accumulate(sums, z, t, temperature, DIVERGENCE)


@triton.jit
def conclude_rows(
    sums, teacher, shared, rows, read, weight, classes, alpha, param0, param1, scale,
    DIVERGENCE: tl.constexpr,
):  # fmt: skip
    """The teacher's part of the rows' loss, and the coefficients of its part of the gradients."""
    position, known = label_position(teacher, shared, rows)
    has_label = read & known
    z_label = tl.where(has_label, rows.z_label, -_INF)
    t_label = load_label(teacher, shared, rows, position, has_label)
    temperature = teacher.temperature
    value, of_student, of_teacher = divergence(
        sums, z_label, t_label, has_label, temperature, param0, param1, DIVERGENCE
    )
    if shared.has_positions:
        value = tl.where(read & has_invalid_class(teacher, classes), float("nan"), value)
    factor = tl.where(read, weight * (1.0 - alpha) * temperature, 0.0)
    value = tl.where(read, factor * temperature * value, 0.0)
    factor *= scale
    return value, _times(of_student, factor), _times(of_teacher, factor)


@triton.jit
def _times(coefficients, factor):
    own, other, ratio, mean, label = coefficients
    return own * factor, other * factor, ratio * factor, mean, label * factor


@triton.jit
def add_gradients(
    grad, sums, of_student, of_teacher, z, t, teacher, shared, rows, column, is_label, classes,
    param0, param1, DIVERGENCE: tl.constexpr,
):  # fmt: skip
    """Add a teacher's part to the student's gradient; write the teacher's own if asked for."""
    temperature = teacher.temperature
    log_p, p = softmax(z, sums[0], sums[1], temperature)
    log_q, q = softmax(t, sums[2], sums[3], temperature)
    grad += gradient(of_student, log_p, p, log_q, q, is_label, param0, param1, DIVERGENCE, False)
    if shared.has_grad:
        own = gradient(of_teacher, log_q, q, log_p, p, is_label, param1, param0, DIVERGENCE, True)
        store_teacher_grad(teacher, shared, own, rows, column, classes)
    return grad


@triton.jit
def store_teacher_grad(teacher, shared, grad, rows, column, classes):
    position = position_of(teacher, shared, column, column < classes)
    offset = rows.index[:, None] * teacher.classes + position[None, :]
    mask = rows.exists[:, None] & has_position(teacher, position)[None, :]
    write_teacher_grad(teacher, shared, grad, offset, mask)


@triton.jit
def store_student_grad(student, grad, rows, column):
    offset = rows.index[:, None] * classes_of(student) + column[None, :]
    mask = rows.exists[:, None] & (column < classes_of(student))[None, :]
    tl.store(student.grad + offset, grad, mask=mask)
