# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The weights of the teachers on the rows of a program."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from edufast.kernels._common import (
    any_row,
    finite,
    label_position,
    load_label,
    load_teacher,
    positive,
    rescale,
    touches,
)

from edufast.ops.reference.kd_loss_weights import WEIGHTINGS

GIVEN = tl.constexpr(WEIGHTINGS["given"])
ROUTED = tl.constexpr(WEIGHTINGS["routed"])
ENTROPY = tl.constexpr(WEIGHTINGS["entropy"])
CONFIDENCE = tl.constexpr(WEIGHTINGS["confidence"])
_INF = tl.constexpr(float("inf"))


class Weights(NamedTuple):
    """Given weights; ``row_stride`` is 0 where all rows share them."""

    data: Any  # or None
    row_stride: Any
    column_stride: Any


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
