"""The specification of AEKD's weights: the arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops._arguments import (
    MAX_TEACHERS,
    check_slices,
    check_student,
    check_teachers,
    check_temperatures,
)
from edufast.ops.reference._softmax import softmax
from edufast.ops.slices import ClassSlices


def leaves_one_point(cap: float, teachers: int) -> bool:
    """The cap is 1/K, up to rounding: only the average is left, and no problem to be solved."""
    return cap * teachers <= 1 + 1e-6


class Gram(NamedTuple):
    """The arguments of the operator ``edufast::gradient_gram``, in the order of its schema."""

    student: Tensor  # (B, C) logits
    teachers: list[Tensor]  # K logits (B, C_k)
    columns: list[Tensor]  # as in KDLoss
    starts: list[int]  # K
    temperatures: list[float]  # K

    def check(self) -> None:
        """Refuse what the operator in C++ refuses.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        check_student(self.student)
        check_teachers(self.student, self.teachers)
        check_slices(self.student, self.teachers, self.columns, self.starts)
        check_temperatures(self.temperatures, len(self.teachers))


def check_weights(gram: Tensor, cap: float) -> None:
    """Refuse what the operator ``edufast::min_norm_weights`` refuses.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    square = gram.dim() == 2 and gram.shape[0] == gram.shape[1]
    if not square or not 1 <= gram.shape[0] <= MAX_TEACHERS or gram.dtype != torch.float64:
        raise ValueError(
            f"gram has shape {tuple(gram.shape)} and dtype {gram.dtype}; expected (K, K) with "
            f"1 <= K <= {MAX_TEACHERS} and torch.float64"
        )
    k = gram.shape[0]
    if not cap == 1 and (leaves_one_point(cap, k) or not cap < 1):
        raise ValueError(f"cap is {cap}; expected a number above 1/K = {1 / k:.4g} and up to 1")


def reference_gram(p: Gram) -> Tensor:
    """(K, K) float64: sums over rows and classes of ``g_i * g_j`` with ``g_k = T_k (p_k - q_k)``.

    ``g_k`` is the gradient of ``T_k^2 KL(teacher_k || student[S_k])`` for the student's logits,
    zero outside the slice S_k. A row that is -inf throughout the slice, on either side, has no
    gradient there; NaN gives NaN.
    """
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    slices = ClassSlices(tuple(p.starts), tuple(p.columns), tuple(t.shape[1] for t in p.teachers))
    z = p.student.to(dtype)
    grads = []
    for k, (t, temperature) in enumerate(zip(p.teachers, p.temperatures, strict=True)):
        s, q = softmax(slices.select(z, k), temperature), softmax(t.to(dtype), temperature)
        g = (temperature * (s.p - q.p)).masked_fill((s.empty | q.empty)[:, None], 0)
        if p.columns and p.columns[k].numel():
            index = p.columns[k]
        else:
            index = torch.arange(p.starts[k], p.starts[k] + t.shape[1], device=z.device)
        grads.append(torch.zeros_like(z).index_copy_(1, index, g))
    pairs = [[(a * b).sum(1).double().sum() for b in grads] for a in grads]
    return torch.stack([torch.stack(row) for row in pairs])


# Of the interior-point method; csrc/min_norm.h holds the same. The complementarity falls tenfold
# a step until it is FLOOR: for K up to 32 the squared norm is then minimal to 1e-11 of the largest
# gradient's, with or without a cap, for singular matrices, too (tests/ops/test_min_norm.py).
ITERATIONS = 24
SIGMA = 0.1
FLOOR = 1e-13
TO_BOUNDARY = 0.99
NEGLIGIBLE = 1e-6  # what the method leaves of a weight that should be 0


def reference_weights(gram: Tensor, cap: float) -> Tensor:
    """argmin of ``w' gram w`` with ``sum w = 1`` and ``0 <= w <= cap``, float32 (K,).

    A primal-dual interior-point method with a fixed number of steps: nothing waits for the
    device. Where the minimiser is not unique it tends to the centre of the minimisers: equal
    teachers share their weight equally.
    """
    k = gram.shape[0]
    largest = gram.diagonal().amax()
    g = gram / torch.where(largest > 0, largest, torch.ones_like(largest))
    ones = torch.ones_like(g[0])
    capped = cap < 1
    # Variables that stay positive, x and cap - x, and their multipliers.
    x, z = ones / k, ones
    slack, w = (cap - x, ones) if capped else (ones, torch.zeros_like(ones))
    for _ in range(ITERATIONS):
        mu = (x @ z + slack @ w) / (2 * k if capped else k)
        target = (SIGMA * mu).clamp_min(FLOOR)
        push = target / x - target / slack if capped else target / x
        system = g + torch.diag(z / x + w / slack)
        solution = torch.linalg.solve_ex(system, torch.stack([push - g @ x, ones], 1))[0]
        dx = solution[:, 0] - solution[:, 1] * (solution[:, 0].sum() / solution[:, 1].sum())
        dz = (target - z * dx) / x - z
        values, steps = [x, z], [dx, dz]
        if capped:
            values += [slack, w]
            steps += [-dx, (target + w * dx) / slack - w]
        v, d = torch.stack(values), torch.stack(steps)
        longest = torch.where(d < 0, -v / d, math.inf).amin() * TO_BOUNDARY
        v = v + longest.clamp_max(1.0) * d
        x, z = v[0], v[1]
        if capped:
            slack, w = v[2], v[3]
    x = torch.where(x < NEGLIGIBLE, 0.0, x)
    return (x / x.sum()).clamp_max(cap).float()
