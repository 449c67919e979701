# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""What the two kernels of kd_loss.py do with a tile of rows and classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from edufast.kernels.kd_loss_divergences import (
    DKD,
    finite,
    gather,
    gradient,
    positive,
    rescale,
    settle,
    softmax,
)

from edufast.ops.kd_loss_reference import WEIGHTINGS

GIVEN = tl.constexpr(WEIGHTINGS["given"])
ROUTED = tl.constexpr(WEIGHTINGS["routed"])
ENTROPY = tl.constexpr(WEIGHTINGS["entropy"])
CONFIDENCE = tl.constexpr(WEIGHTINGS["confidence"])
_INF = tl.constexpr(float("inf"))

# ``row_stride``, ``classes`` and ``start`` travel in units of ``unit`` elements, a constant that
# divides them all: by itself Triton sees multiples of 16 only, and would load rows of 1000 classes
# one by one.


class Student(NamedTuple):
    data: Any
    row_stride: Any
    column_stride: Any
    classes: Any
    grad: Any  # (B, C) contiguous
    unit: Any


class Teacher(NamedTuple):
    data: Any
    row_stride: Any
    column_stride: Any
    classes: Any
    start: Any  # class of its first column, if ``position`` is None
    position: Any  # (C + 1,): its column for each class, else -1; last: >= 0 if a class was invalid
    temperature: Any
    grad: Any  # (B, classes) contiguous, or None
    unit: Any


class Weights(NamedTuple):
    data: Any  # or None
    row_stride: Any
    column_stride: Any


class Rows(NamedTuple):
    """The rows of a program."""

    index: Any  # int64
    exists: Any
    valid: Any  # exists and is not ignored
    label: Any  # int32, -1 if ignored or out of range
    z_label: Any  # the student's logit there, NaN if out of range


# --- loads --------------------------------------------------------------------------------------


@triton.jit
def in_elements(s):
    return Student(
        s.data, s.row_stride * s.unit, s.column_stride, s.classes * s.unit, s.grad, s.unit
    )


@triton.jit
def load_rows(student, labels, label_stride, num_rows, ignore_index, ROWS: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = index < num_rows
    label = tl.load(labels + index * label_stride, mask=exists, other=ignore_index)
    valid = exists & (label != ignore_index)
    label = tl.where(valid & (label >= 0) & (label < student.classes), label, -1).to(tl.int32)
    offset = index * student.row_stride + label.to(tl.int64) * student.column_stride
    z_label = tl.load(student.data + offset, mask=label >= 0, other=float("nan")).to(tl.float32)
    return Rows(index, exists, valid, label, z_label)


@triton.jit
def load_student(student, rows, column):
    offset = (
        rows.index[:, None] * student.row_stride
        + column.to(tl.int64)[None, :] * student.column_stride
    )
    mask = rows.valid[:, None] & (column < student.classes)[None, :]
    return tl.load(student.data + offset, mask=mask, other=-_INF).to(tl.float32)


@triton.jit
def _position(teacher, column, valid):
    """The teacher's column for each class; outside [0, classes) where it has none."""
    if teacher.position is None:
        return column - teacher.start * teacher.unit
    else:
        return tl.load(teacher.position + column, mask=valid, other=-1)


@triton.jit
def _has(teacher, position):
    return (position >= 0) & (position < teacher.classes * teacher.unit)


@triton.jit
def load_teacher(teacher, rows, column, read, classes):
    """Its logits on the student's classes, -inf where there is nothing to read; the mask."""
    position = _position(teacher, column, column < classes)
    mask = read[:, None] & _has(teacher, position)[None, :]
    offset = (
        rows.index[:, None] * (teacher.row_stride * teacher.unit)
        + position.to(tl.int64)[None, :] * teacher.column_stride
    )
    return tl.load(teacher.data + offset, mask=mask, other=-_INF).to(tl.float32), mask


@triton.jit
def label_position(teacher, rows):
    """The teacher's column for the label, and whether it has one."""
    position = _position(teacher, rows.label, rows.label >= 0)
    return position, (rows.label >= 0) & _has(teacher, position)


@triton.jit
def load_label(teacher, rows, position, mask):
    offset = (
        rows.index * (teacher.row_stride * teacher.unit)
        + position.to(tl.int64) * teacher.column_stride
    )
    return tl.load(teacher.data + offset, mask=mask, other=-_INF).to(tl.float32)


@triton.jit
def any_row(mask):
    return tl.max(mask.to(tl.int32), 0) != 0


@triton.jit
def touches(teacher, first, CLASSES: tl.constexpr):
    """Whether the teacher has a class in [first, first + CLASSES)."""
    if teacher.position is None:
        start = teacher.start * teacher.unit
        return (first < start + teacher.classes * teacher.unit) & (first + CLASSES > start)
    else:
        return first >= 0


# --- weights ------------------------------------------------------------------------------------


@triton.jit
def _add_sharpness(sums, t):
    """Maximum, total, and sum of e^(t - max) (t - max)."""
    old_top, total, moment = sums
    top = tl.maximum(old_top, tl.max(t, 1))
    scale, drift = tl.exp(old_top - finite(top)), finite(old_top) - finite(top)
    t -= finite(top)[:, None]
    e = tl.exp(t)
    moment = rescale(moment + total * drift, scale)
    moment += tl.sum(tl.where(e == 0, 0.0, e * t), 1)
    return top, rescale(total, scale) + tl.sum(e, 1), moment


@triton.jit
def _sharpness(teacher, rows, read, classes, CLASSES: tl.constexpr, LOOP: tl.constexpr):
    zero = tl.zeros_like(rows.z_label)
    sums = (zero - _INF, zero, zero)
    column = tl.arange(0, CLASSES)
    if LOOP:
        for first in range(0, classes, CLASSES):
            if touches(teacher, first, CLASSES):
                t, _ = load_teacher(teacher, rows, first + column, read, classes)
                sums = _add_sharpness(sums, t)
    elif any_row(read):
        t, _ = load_teacher(teacher, rows, column, read, classes)
        sums = _add_sharpness(sums, t)
    tl.debug_barrier()  # as between the teachers in _tile_kernel
    return sums


@triton.jit
def _entropy_weights(
    teachers, rows, classes, K: tl.constexpr, CLASSES: tl.constexpr, LOOP: tl.constexpr
):  # fmt: skip
    """EBKD: (1 - H_k / sum H) / (K - 1), with the teachers' entropies at T = 1; K = 1: 1."""
    total = tl.zeros_like(rows.z_label)
    entropies = ()
    for k in tl.static_range(K):
        _, mass, moment = _sharpness(teachers[k], rows, rows.valid, classes, CLASSES, LOOP)
        entropy = tl.log(positive(mass)) - moment / positive(mass)
        entropies += (entropy,)
        total += entropy
    weights = ()
    for k in tl.static_range(K):
        share = tl.where(total == 0, 1.0 / K, entropies[k] / total)
        weights += ((1.0 - share) / (K - 1) if K > 1 else tl.zeros_like(total) + 1.0,)
    return weights


@triton.jit
def _confidence_weights(
    teachers, rows, classes, K: tl.constexpr, CLASSES: tl.constexpr, LOOP: tl.constexpr
):  # fmt: skip
    """CA-MKD: (1 - softmax_k CE_k) / (n - 1) over the n teachers that know the label; n = 1: 1."""
    count = tl.zeros_like(rows.z_label)
    largest = count - _INF
    losses = ()
    for k in tl.static_range(K):
        position, known = label_position(teachers[k], rows)
        logit = load_label(teachers[k], rows, position, known)
        top, mass, _ = _sharpness(teachers[k], rows, known, classes, CLASSES, LOOP)
        loss = tl.log(positive(mass)) - (logit - finite(top))
        loss = tl.where((mass == 0) | (loss > 1e30), 1e30, loss)
        loss = tl.where(known, loss, -_INF)
        losses += (loss,)
        largest = tl.maximum(largest, loss)
        count += tl.where(known, 1.0, 0.0)
    total = tl.zeros_like(count)
    for k in tl.static_range(K):
        total += tl.exp(losses[k] - finite(largest))
    weights = ()
    for k in tl.static_range(K):
        share = tl.exp(losses[k] - finite(largest)) / positive(total)
        weight = tl.where(count > 1, (1.0 - share) / tl.maximum(count - 1.0, 1.0), 1.0)
        weights += (tl.where(losses[k] == -_INF, 0.0, weight),)
    return weights


@triton.jit
def teacher_weights(
    weights, teachers, rows, classes,
    K: tl.constexpr, WEIGHTING: tl.constexpr, CLASSES: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """K weights for each row."""
    if WEIGHTING == ENTROPY:
        return _entropy_weights(teachers, rows, classes, K, CLASSES, LOOP)
    elif WEIGHTING == CONFIDENCE:
        return _confidence_weights(teachers, rows, classes, K, CLASSES, LOOP)
    else:
        zero = tl.zeros_like(rows.z_label)
        owners = zero
        if WEIGHTING == ROUTED:
            for k in tl.static_range(K):
                _, known = label_position(teachers[k], rows)
                owners += tl.where(known, 1.0, 0.0)
        result = ()
        for k in tl.static_range(K):
            weight = zero + 1.0 / K
            if WEIGHTING == GIVEN:
                offset = rows.index * weights.row_stride + k * weights.column_stride
                weight = tl.load(weights.data + offset, mask=rows.valid, other=0.0)
            elif WEIGHTING == ROUTED:
                _, known = label_position(teachers[k], rows)
                weight = tl.where(known, 1.0 / positive(owners), 0.0)
            result += (weight,)
        return result


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
    total = rescale(total, tl.exp(old_top - finite(top)))
    z -= finite(top)[:, None]
    plain += tl.sum(tl.where((column < classes)[None, :], z, 0.0), 1)
    return top, total + tl.sum(tl.exp(z), 1), plain


@triton.jit
def cross_entropy(sums, rows, classes, alpha, smoothing):
    """Its value and the factor of its gradient, both times alpha."""
    top, total, plain = sums
    smooth = tl.where(smoothing == 0, 0.0, smoothing * (plain / classes))
    value = tl.log(positive(total)) - (1.0 - smoothing) * (rows.z_label - finite(top)) - smooth
    value = tl.where(total == 0, _INF, value)
    return tl.where(alpha == 0, 0.0, alpha * value), tl.where(rows.valid & (total != 0), alpha, 0.0)


@triton.jit
def cross_entropy_gradient(z, sums, slope, is_label, classes, smoothing):
    _, p = softmax(z, sums[0], sums[1], 1.0)
    grad = slope[:, None] * (p - (tl.where(is_label, 1.0 - smoothing, 0.0) + smoothing / classes))
    return tl.where(slope[:, None] == 0, 0.0, grad)


# --- divergences --------------------------------------------------------------------------------


@triton.jit
def gather_tile(sums, u, v, is_label, temperature, DIVERGENCE: tl.constexpr):
    if DIVERGENCE == DKD:
        u, v = tl.where(is_label, -_INF, u), tl.where(is_label, -_INF, v)
    return gather(sums, u, v, temperature, DIVERGENCE)


@triton.jit
def settle_rows(
    sums, teacher, rows, read, weight, classes, alpha, param0, param1, scale,
    DIVERGENCE: tl.constexpr,
):  # fmt: skip
    """The teacher's share of the row's loss, and the slopes of its share of the gradients."""
    position, known = label_position(teacher, rows)
    has_label = read & known
    u_label = tl.where(has_label, rows.z_label, -_INF)
    v_label = load_label(teacher, rows, position, has_label)
    value, u_slope, v_slope = settle(
        sums, u_label, v_label, has_label, teacher.temperature, param0, param1, DIVERGENCE
    )
    if teacher.position is not None:
        invalid = tl.load(teacher.position + classes) >= 0
        value = tl.where(read & invalid, float("nan"), value)
    factor = tl.where(read, weight * (1.0 - alpha) * teacher.temperature, 0.0)
    value = tl.where(read, factor * teacher.temperature * value, 0.0)
    factor *= scale
    return value, _times(u_slope, factor), _times(v_slope, factor)


@triton.jit
def _times(slope, factor):
    return slope[0] * factor, slope[1] * factor, slope[2] * factor, slope[3] * factor


@triton.jit
def add_gradients(
    grad, sums, u_slope, v_slope, u, v, teacher, rows, column, is_label, classes, param0,
    DIVERGENCE: tl.constexpr,
):  # fmt: skip
    """Add a teacher's share to the student's gradient; write the teacher's own if asked for."""
    log_p, p = softmax(u, sums[0], sums[1], teacher.temperature)
    log_q, q = softmax(v, sums[2], sums[3], teacher.temperature)
    grad += gradient(u_slope, log_p, p, log_q, q, is_label, param0, DIVERGENCE, False)
    if teacher.grad is not None:
        own = gradient(v_slope, log_q, q, log_p, p, is_label, param0, DIVERGENCE, True)
        store_teacher_grad(teacher, own, rows, column, classes)
    return grad


@triton.jit
def store_teacher_grad(teacher, grad, rows, column, classes):
    position = _position(teacher, column, column < classes)
    offset = rows.index[:, None] * (teacher.classes * teacher.unit) + position[None, :]
    mask = rows.exists[:, None] & _has(teacher, position)[None, :]
    tl.store(teacher.grad + offset, grad, mask=mask)


@triton.jit
def store_student_grad(student, grad, rows, column):
    offset = rows.index[:, None] * student.classes + column[None, :]
    mask = rows.exists[:, None] & (column < student.classes)[None, :]
    tl.store(student.grad + offset, grad, mask=mask)
