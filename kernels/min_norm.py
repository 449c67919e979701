# mypy: disallow-untyped-defs=False
"""AEKD's weights in Triton: semantics as in edufast/ops/reference/min_norm.py.

Three launches: Gram matrices of many rows each, their sum, and the quadratic program, which one
small program solves. A program keeps the gradients of one row at a time, in cached memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from edufast.kernels._common import (
    Rows,
    add_to_softmax,
    check_logits,
    check_processor,
    classes_of,
    finite,
    load_pair,
    number,
    pick,
    student_of,
    teachers_of,
)
from torch import Tensor

from edufast.ops._library import define_like
from edufast.ops.min_norm import register_min_norm
from edufast.ops.reference.min_norm import (
    FLOOR,
    ITERATIONS,
    NEGLIGIBLE,
    SIGMA,
    TO_BOUNDARY,
    Gram,
    Weights,
)

_INF = tl.constexpr(float("inf"))
_FLOOR = tl.constexpr(FLOOR)
_ITERATIONS = tl.constexpr(ITERATIONS)
_NEGLIGIBLE = tl.constexpr(NEGLIGIBLE)
_SIGMA = tl.constexpr(SIGMA)
_TO_BOUNDARY = tl.constexpr(TO_BOUNDARY)

# --- the Gram matrix --------------------------------------------------------------------------


@triton.jit
def _softened(x, most, scale, inverse_t):
    return tl.exp((x - finite(most)[:, None]) * inverse_t) * scale[:, None]


@triton.jit
def _write_gradient(grads, student, teacher, shared, rows, width, TILE: tl.constexpr):
    """T (p - q) over all classes, zero outside the slice and where either side is empty."""
    temperature = teacher.temperature
    inverse_t = 1.0 / temperature
    z_most = tl.full([1], -_INF, tl.float32)
    t_most = tl.full([1], -_INF, tl.float32)
    z_sum = tl.zeros([1], tl.float32)
    t_sum = tl.zeros([1], tl.float32)
    for first in range(0, classes_of(student), TILE):
        z, t = load_pair(student, teacher, shared, rows, first + tl.arange(0, TILE), rows.valid)
        z_most, z_sum = add_to_softmax(z_most, z_sum, z, inverse_t)
        t_most, t_sum = add_to_softmax(t_most, t_sum, t, inverse_t)
    empty = (z_sum == 0.0) | (t_sum == 0.0)
    z_scale = tl.where(empty, 0.0, temperature / tl.where(empty, 1.0, z_sum))
    t_scale = tl.where(empty, 0.0, temperature / tl.where(empty, 1.0, t_sum))
    for first in range(0, width, TILE):
        column = first + tl.arange(0, TILE)
        z, t = load_pair(student, teacher, shared, rows, column, rows.valid)
        p = _softened(z, z_most, z_scale, inverse_t)
        q = _softened(t, t_most, t_scale, inverse_t)
        tl.store(grads + column[None, :], p - q)


@triton.jit(do_not_specialize=["num_rows"])
def _gram_kernel(
    student, teachers, shared, grads, partials, num_rows, width,
    K: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    grads += program.to(tl.int64) * K * width
    i = tl.arange(0, SIZE)
    chunk = tl.arange(0, CHUNK)
    gram = tl.zeros([SIZE, SIZE], tl.float32)
    for r in range(program, num_rows, tl.num_programs(0)):
        index = tl.zeros([1], tl.int64) + r
        exists = index < num_rows
        rows = Rows(index, exists, exists, None, None)
        for k in range(K):
            teacher = pick(teachers, shared, k, K)
            _write_gradient(grads + k * width, student, teacher, shared, rows, width, TILE)
        tl.debug_barrier()  # what is read next was written by other threads
        for first in range(0, width, CHUNK):
            offset = i[:, None] * width + (first + chunk)[None, :]
            all_grads = tl.load(grads + offset, mask=(i < K)[:, None], other=0.0)
            for j in range(K):
                one = tl.load(grads + (j * width + first) + chunk)
                products = tl.sum(all_grads * one[None, :], 1)
                gram += tl.where((i == j)[:, None], products[None, :], 0.0)
        tl.debug_barrier()  # before the next row overwrites it
    offset = (program * SIZE + i[:, None]) * SIZE + i[None, :]
    tl.store(partials + offset, gram)


_MAX_TILE = 1024
_HELD = 2048  # gradients that a program multiplies at a time
_PROGRAMS = 512  # a constant, so that the sums do not depend on the device


def _gradient_gram(*arguments: Any) -> Tensor:
    p = Gram(*arguments)
    p.check()
    temperatures = p.with_floats().temperatures_or_nan()
    check_logits(student=p.student, **{f"teachers[{k}]": t for k, t in enumerate(p.teachers)})
    num_rows, classes = p.student.shape
    k = len(p.teachers)
    if not num_rows:
        return p.student.new_zeros((k, k), dtype=torch.float64)
    programs, size = min(num_rows, _PROGRAMS), triton.next_power_of_2(k)
    tile = min(_MAX_TILE, max(64, triton.next_power_of_2(classes)))
    width = triton.cdiv(classes, tile) * tile
    grads = p.student.new_empty(programs * k * width, dtype=torch.float32)
    partials = p.student.new_empty((programs, size, size), dtype=torch.float32)
    with torch.cuda.device_of(p.student):
        teachers, shared, _kept = teachers_of(
            p.teachers, p.columns, p.starts, temperatures, classes, []
        )
        _gram_kernel[(programs,)](
            student_of(p.student, None), teachers, shared, grads, partials, num_rows, width,
            K=k, SIZE=size, TILE=tile, CHUNK=min(tile, _HELD // size), num_warps=4,
        )  # fmt: skip
    return partials.sum(0, dtype=torch.float64)[:k, :k].contiguous()


# --- the quadratic program: step for step as edufast.ops.reference.min_norm ---------------


@triton.jit
def _solve(m, a, b, i, K: tl.constexpr):
    """Solutions of m x = a and m x = b by Gauss-Jordan elimination; m is positive definite."""
    for j in range(K):
        is_j = i == j
        row = tl.sum(tl.where(is_j[:, None], m, 0.0), 0)
        column = tl.sum(tl.where(is_j[None, :], m, 0.0), 1)
        pivot = tl.sum(tl.where(is_j, column, 0.0), 0)
        factor = tl.where(is_j, 0.0, column / pivot)
        m -= factor[:, None] * row[None, :]
        a -= factor * tl.sum(tl.where(is_j, a, 0.0), 0)
        b -= factor * tl.sum(tl.where(is_j, b, 0.0), 0)
    diagonal = tl.sum(tl.where(i[:, None] == i[None, :], m, 0.0), 1)
    return a / diagonal, b / diagonal


@triton.jit
def _longest(value, change):
    return tl.min(tl.where(change < 0, -value / change, _INF), 0)


@triton.jit
def _weights_kernel(gram, weights, cap, K: tl.constexpr, SIZE: tl.constexpr, CAPPED: tl.constexpr):
    cap = number(cap)
    i = tl.arange(0, SIZE)
    valid = i < K
    one = tl.full([SIZE], 1.0, tl.float64)
    ones = tl.where(valid, one, 0.0)
    is_diagonal = i[:, None] == i[None, :]
    mask = valid[:, None] & valid[None, :]
    g = tl.load(gram + i[:, None] * K + i[None, :], mask=mask, other=0.0)
    largest = tl.max(tl.sum(tl.where(is_diagonal, g, 0.0), 1), 0)
    g = g / tl.where(largest > 0, largest, 1.0)
    # Entries beyond K stay where they are.
    x = tl.where(valid, one / K, 1.0)
    z = ones
    slack = tl.where(valid, cap - x, 1.0)
    w = ones if CAPPED else ones * 0.0
    for _ in range(_ITERATIONS):
        mu = tl.sum(x * z + slack * w, 0) / (2 * K if CAPPED else K)  # w = 0 without a cap
        target = tl.maximum(mu * _SIGMA, _FLOOR)
        push = target / x
        if CAPPED:
            push -= target / slack
        push = tl.where(valid, push - tl.sum(g * x[None, :], 1), 0.0)
        system = g + tl.where(is_diagonal, tl.where(valid, z / x + w / slack, 1.0)[:, None], 0.0)
        a, b = _solve(system, push, ones, i, K)
        dx = a - b * (tl.sum(a, 0) / tl.sum(b, 0))
        dz = tl.where(valid, (target - z * dx) / x - z, 0.0)
        step = tl.minimum(_longest(x, dx), _longest(z, dz))
        dw = dz
        if CAPPED:
            dw = tl.where(valid, (target + w * dx) / slack - w, 0.0)
            step = tl.minimum(step, tl.minimum(_longest(slack, -dx), _longest(w, dw)))
        step = tl.minimum(step * _TO_BOUNDARY, 1.0)
        x += step * dx
        z += step * dz
        if CAPPED:
            slack -= step * dx
            w += step * dw
    x = tl.where(valid & ~(x < _NEGLIGIBLE), x, 0.0)
    x = x / tl.sum(x, 0)
    x = tl.where(x > cap, cap, x)
    tl.store(weights + i, x.to(tl.float32), mask=valid)


def _min_norm_weights(*arguments: Any) -> Tensor:
    p = Weights(*arguments)
    p.check()
    check_processor("gram", p.gram)
    cap = p.with_floats().cap_or_nan()
    k = p.gram.shape[0]
    weights = p.gram.new_empty(k, dtype=torch.float32)
    size = triton.next_power_of_2(k)
    capped = isinstance(cap, Tensor) or cap < 1
    with torch.cuda.device_of(p.gram):
        _weights_kernel[(1,)](
            p.gram, weights, cap, K=k, SIZE=size, CAPPED=capped, num_warps=1 if size < 16 else 4
        )
    return weights


gradient_gram = define_like(
    torch.ops.edufast.gradient_gram.default, "gradient_gram_triton", _gradient_gram
)
min_norm_weights = define_like(
    torch.ops.edufast.min_norm_weights.default, "min_norm_weights_triton", _min_norm_weights
)
register_min_norm(gradient_gram, min_norm_weights)
