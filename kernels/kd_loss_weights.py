# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The weights of the teachers on the rows of a program."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from edufast.kernels._common import (
    any_row,
    classes_of,
    exp,
    finite,
    label_position,
    load_label,
    load_teacher,
    pick,
    positive,
    put,
    rescale,
    touches,
)
from edufast.kernels.kd_loss_tiles import load_rows

from edufast.ops.reference.kd_loss_weights import LEAST_ENTROPY, WEIGHTINGS

ENTROPY = tl.constexpr(WEIGHTINGS["entropy"])
_LEAST_ENTROPY = tl.constexpr(LEAST_ENTROPY)
CONFIDENCE = tl.constexpr(WEIGHTINGS["confidence"])
_INF = tl.constexpr(float("inf"))


class Weights(NamedTuple):
    """Weights in memory; ``row_stride`` is 0 where all rows share them."""

    data: Any  # None: all are equal
    row_stride: Any
    column_stride: Any


@triton.jit
def _add_sharpness(sums, t):
    """Maximum, total, and sum of e^(t - max) (t - max)."""
    old_top, total, moment = sums
    top = tl.maximum(old_top, tl.max(t, 1))
    scale, drift = exp(old_top - finite(top)), finite(old_top) - finite(top)
    t -= finite(top)[:, None]
    e = exp(t)
    moment = rescale(moment + total * drift, scale)
    moment += tl.sum(tl.where(e == 0, 0.0, e * t), 1)
    return top, rescale(total, scale) + tl.sum(e, 1), moment


@triton.jit
def _sharpness(teacher, shared, rows, read, classes, CLASSES: tl.constexpr, LOOP: tl.constexpr):
    zero = tl.zeros_like(rows.z_label)
    sums = (zero - _INF, zero, zero)
    column = tl.arange(0, CLASSES)
    if LOOP:
        for first in range(0, classes, CLASSES):
            if touches(teacher, shared, first, CLASSES):
                t, _ = load_teacher(teacher, shared, rows, first + column, read, classes)
                sums = _add_sharpness(sums, t)
    elif any_row(read):
        t, _ = load_teacher(teacher, shared, rows, column, read, classes)
        sums = _add_sharpness(sums, t)
    return sums


@triton.jit
def _entropy_weights(
    teachers, shared, rows, classes,
    K: tl.constexpr, SIZE: tl.constexpr, CLASSES: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """EBKD: (1 - H_k / sum H) / (K - 1), with the teachers' entropies at T = 1; K = 1: 1."""
    entropies = tl.zeros_like(rows.z_label)[:, None] + tl.zeros([1, SIZE], tl.float32)
    for k in range(K):
        teacher = pick(teachers, shared, k, K)
        _, mass, moment = _sharpness(teacher, shared, rows, rows.valid, classes, CLASSES, LOOP)
        entropy = tl.log(positive(mass)) - moment / positive(mass)
        entropies = put(entropies, k, tl.where(entropy < _LEAST_ENTROPY, 0.0, entropy))
    total = tl.sum(entropies, 1)[:, None]
    share = tl.where(total == 0, 1.0 / K, entropies / total)
    if K == 1:
        return tl.zeros_like(share) + 1.0
    else:
        return (1.0 - share) / (K - 1)


@triton.jit
def _confidence_weights(
    teachers, shared, rows, classes,
    K: tl.constexpr, SIZE: tl.constexpr, CLASSES: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """CA-MKD: (1 - softmax_k CE_k) / (n - 1) over the n teachers that know the label; n = 1: 1."""
    losses = tl.zeros_like(rows.z_label)[:, None] + tl.zeros([1, SIZE], tl.float32) - _INF
    for k in range(K):
        teacher = pick(teachers, shared, k, K)
        position, known = label_position(teacher, shared, rows)
        logit = load_label(teacher, shared, rows, position, known)
        top, mass, _ = _sharpness(teacher, shared, rows, known, classes, CLASSES, LOOP)
        loss = tl.log(positive(mass)) - (logit - finite(top))
        loss = tl.where((mass == 0) | (loss > 1e30), 1e30, loss)
        losses = put(losses, k, tl.where(known, loss, -_INF))
    count = tl.sum((losses != -_INF).to(tl.float32), 1)[:, None]
    share = exp(losses - finite(tl.max(losses, 1))[:, None])
    share = share / positive(tl.sum(share, 1))[:, None]
    weights = tl.where(count > 1, (1.0 - share) / tl.maximum(count - 1.0, 1.0), 1.0)
    return tl.where(losses == -_INF, 0.0, weights)


@triton.jit
def _routed_weights(teachers, shared, rows, K: tl.constexpr, SIZE: tl.constexpr):
    """1 for the teacher that knows the label, shared equally among several."""
    owned = tl.zeros_like(rows.z_label)[:, None] + tl.zeros([1, SIZE], tl.float32)
    for k in range(K):
        _, known = label_position(pick(teachers, shared, k, K), shared, rows)
        owned = put(owned, k, tl.where(known, 1.0, 0.0))
    return owned / positive(tl.sum(owned, 1))[:, None]


@triton.jit(do_not_specialize=["num_rows"])
def weights_kernel(
    student, teachers, shared, labels, label_stride, weights, num_rows, ignore_index,
    K: tl.constexpr, SIZE: tl.constexpr, WEIGHTING: tl.constexpr, ROWS: tl.constexpr,
    CLASSES: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """Weights that depend on the teachers or the labels."""
    rows = load_rows(tl.program_id(0), student, labels, label_stride, num_rows, ignore_index, ROWS)
    classes = classes_of(student)
    if WEIGHTING == ENTROPY:
        found = _entropy_weights(teachers, shared, rows, classes, K, SIZE, CLASSES, LOOP)
    elif WEIGHTING == CONFIDENCE:
        found = _confidence_weights(teachers, shared, rows, classes, K, SIZE, CLASSES, LOOP)
    else:
        found = _routed_weights(teachers, shared, rows, K, SIZE)
    k = tl.arange(0, SIZE)[None, :]
    offset = rows.index[:, None] * weights.row_stride + k * weights.column_stride
    tl.store(weights.data + offset, found, mask=rows.exists[:, None] & (k < K))


@triton.jit
def weight_of(weights, rows, k, K: tl.constexpr):
    """Teacher k's weight on each row."""
    if weights.data is None:
        return tl.zeros_like(rows.z_label) + 1.0 / K
    else:
        offset = rows.index * weights.row_stride + k * weights.column_stride
        return tl.load(weights.data + offset, mask=rows.valid, other=0.0)
