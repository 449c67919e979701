"""The specification of AEKD's weights: the arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from edufast.ops._numbers import Number, check_numbers, is_temperature
from edufast.ops.reference._softmax import softmax
from edufast.ops.slices import ClassSlices
from edufast.utils._torch_private import values_are_at_hand


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
    # Replaces the temperatures, which are then empty: float64, as in KDLoss.
    numbers: Tensor | None = None

    def check(self) -> None:
        """Refuse what the operator in C++ refuses.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        check_student(self.student)
        check_teachers(self.student, self.teachers)
        check_slices(self.student, self.teachers, self.columns, self.starts)
        if self.numbers is None:
            check_temperatures(self.temperatures, len(self.teachers))
        else:
            check_numbers(self.numbers, len(self.teachers), self.student, not self.temperatures)

    def with_floats(self) -> Gram:
        """As :meth:`edufast.ops.reference.kd_loss.KDLoss.with_floats`."""
        if self.numbers is None or not values_are_at_hand(self.numbers):
            return self
        temperatures = self.numbers.tolist()
        check_temperatures(temperatures, len(self.teachers))
        return self._replace(temperatures=temperatures, numbers=None)

    def temperatures_or_nan(self) -> Sequence[Number]:
        """Floats, or tensors on the student's device: NaN for what is out of range."""
        if self.numbers is None:
            return self.temperatures
        row = self.numbers.to(self.student.device, non_blocking=True)
        return torch.where(torch.as_tensor(is_temperature(row)), row, math.nan).unbind()


class Weights(NamedTuple):
    """The arguments of the operator ``edufast::min_norm_weights``, in the order of its schema."""

    gram: Tensor  # (K, K) float64
    cap: float
    # Replaces the cap, which is then 0: float64 (1,), as in KDLoss.
    numbers: Tensor | None = None

    def check(self) -> None:
        """Refuse what the operator in C++ refuses.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        gram = self.gram
        square = gram.dim() == 2 and gram.shape[0] == gram.shape[1]
        if not square or not 1 <= gram.shape[0] <= MAX_TEACHERS or gram.dtype != torch.float64:
            raise ValueError(
                f"gram has shape {tuple(gram.shape)} and dtype {gram.dtype}; expected (K, K) with "
                f"1 <= K <= {MAX_TEACHERS} and torch.float64"
            )
        if self.numbers is None:
            check_cap(self.cap, gram.shape[0])
        else:
            check_numbers(self.numbers, 1, gram, self.cap == 0, "gram")

    def with_floats(self) -> Weights:
        """As :meth:`edufast.ops.reference.kd_loss.KDLoss.with_floats`."""
        if self.numbers is None or not values_are_at_hand(self.numbers):
            return self
        cap = self.numbers.item()
        check_cap(cap, self.gram.shape[0])
        return self._replace(cap=cap, numbers=None)

    def cap_or_nan(self) -> Number:
        """A float, or a tensor on the device of ``gram``: NaN if it is out of range."""
        if self.numbers is None:
            return self.cap
        cap = self.numbers[0].to(self.gram.device, non_blocking=True)
        return torch.where((cap * len(self.gram) > 1 + 1e-6) & (cap <= 1), cap, math.nan)


def check_cap(cap: float, teachers: int) -> None:
    """At 1/K a single point is left, and the method would divide by 0."""
    if not cap == 1 and (leaves_one_point(cap, teachers) or not cap < 1):
        raise ValueError(
            f"cap is {cap}; expected a number above 1/K = {1 / teachers:.4g} and up to 1"
        )


def reference_gram(p: Gram) -> Tensor:
    """(K, K) float64: sums over rows and classes of ``g_i * g_j`` with ``g_k = T_k (p_k - q_k)``.

    ``g_k`` is the gradient of ``T_k^2 KL(teacher_k || student[S_k])`` for the student's logits,
    zero outside the slice S_k. A row that is -inf throughout the slice, on either side, has no
    gradient there; NaN gives NaN, and so does a temperature out of range that could not be refused
    without waiting for a device.
    """
    p = p.with_floats()
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    slices = ClassSlices(tuple(p.starts), tuple(p.columns), tuple(t.shape[1] for t in p.teachers))
    z = p.student.to(dtype)
    grads = []
    for k, (t, temperature) in enumerate(zip(p.teachers, p.temperatures_or_nan(), strict=True)):
        s, q = softmax(slices.select(z, k), temperature), softmax(t.to(dtype), temperature)
        g = (temperature * (s.p - q.p)).masked_fill((s.empty | q.empty)[:, None], 0)
        if p.columns and p.columns[k].numel():
            index = p.columns[k]
        else:
            index = torch.arange(p.starts[k], p.starts[k] + t.shape[1], device=z.device)
        grads.append(torch.zeros_like(z).index_copy(1, index, g))
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


def reference_weights(p: Weights) -> Tensor:
    """argmin of ``w' gram w`` with ``sum w = 1`` and ``0 <= w <= cap``, float32 (K,).

    A primal-dual interior-point method with a fixed number of steps: nothing waits for the
    device. Where the minimiser is not unique it tends to the centre of the minimisers: equal
    teachers share their weight equally. NaN in gives NaN.
    """
    gram, cap = p.gram, p.with_floats().cap_or_nan()
    k = gram.shape[0]
    largest = gram.diagonal().amax()
    g = gram / torch.where(largest > 0, largest, torch.ones_like(largest))
    ones = torch.ones_like(g[0])
    capped = isinstance(cap, Tensor) or cap < 1
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
