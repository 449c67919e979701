"""The specification of DIST: its arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops._arguments import (
    check_device,
    check_float,
    check_student,
    check_temperature,
    check_weight,
)
from edufast.ops._numbers import Number, check_numbers, is_temperature, is_weight
from edufast.ops.reference._softmax import softmax
from edufast.utils._torch_private import values_are_at_hand

# Of the correlation's denominator, as in the authors' code; csrc/dist_loss.h holds the same.
EPSILON = 1e-8
# Deviations up to this part of the mean count as none: rounding alone makes some of 1e-7.
FLAT = 1e-6


class Numbers(NamedTuple):
    """Arguments that may change from call to call, in the order of ``DistLoss.numbers``."""

    temperature: Number
    beta: Number
    gamma: Number

    def check(self) -> None:
        """Refuse floats out of range; tensors are not looked at."""
        check_temperature("temperature", self.temperature)
        check_weight("beta", self.beta)
        check_weight("gamma", self.gamma)


NO_FLOATS = Numbers(0.0, 0.0, 0.0)


class DistLoss(NamedTuple):
    """The arguments of the operator ``edufast::dist_loss``, in the order of its schema."""

    student: Tensor  # (B, C) logits
    teacher: Tensor  # (B, C) logits
    temperature: float
    beta: float
    gamma: float
    # Replaces the three floats, which are then 0: float64 (3,), as in KDLoss.
    numbers: Tensor | None = None

    def check(self) -> None:
        """Refuse what the operator in C++ refuses.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        student, teacher = self.student, self.teacher
        check_student(student)
        if teacher.shape != student.shape:
            raise ValueError(
                f"teacher has shape {tuple(teacher.shape)}; expected {tuple(student.shape)} like "
                "student"
            )
        check_float("teacher", teacher)
        check_device("teacher", teacher, student)
        if self.numbers is None:
            self.floats.check()
        else:
            check_numbers(self.numbers, 3, student, self.floats == NO_FLOATS)

    @property
    def floats(self) -> Numbers:
        return Numbers(self.temperature, self.beta, self.gamma)

    def with_floats(self) -> DistLoss:
        """As :meth:`edufast.ops.reference.kd_loss.KDLoss.with_floats`."""
        if self.numbers is None or not values_are_at_hand(self.numbers):
            return self
        floats = Numbers(*self.numbers.tolist())
        floats.check()
        return self._replace(**floats._asdict(), numbers=None)

    def numbers_or_nan(self) -> Numbers:
        """Floats, or tensors on the student's device; T is NaN if one of them is out of range."""
        if self.numbers is None:
            return self.floats
        temperature, *terms = self.numbers.to(self.student.device, non_blocking=True).unbind()
        right = torch.as_tensor(is_temperature(temperature))
        for term in terms:
            right = right & is_weight(term)
        return Numbers(torch.where(right, temperature, math.nan), *terms)


def reference(p: DistLoss) -> Tensor:
    """The specification, in plain differentiable PyTorch (fp32, or fp64 for fp64 logits).

    Conventions, which every backend shares:

    - ``pearson(a, b) = sum a' b' / (|a'| |b'| + 1e-8)``, a' and b' centred; as in the authors'
      code, whose loss also has the factor tau^2.
    - A row or column that is constant on either side (deviations below 1e-6 of the mean) has
      correlation 0 and no gradient. So do the columns of a single row, and a single class.
    - Classes at -inf have probability 0. A row that is -inf throughout counts as zeros.
    - NaN in a logit gives a NaN loss, and so does a number out of range that could not be refused
      without waiting for a device.
    - Without rows the loss is 0. The teacher is a constant: no gradient flows into it.
    """
    p = p.with_floats()
    n = p.numbers_or_nan()
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    a = softmax(p.student.to(dtype), n.temperature).p
    b = softmax(p.teacher.detach().to(dtype), n.temperature).p
    if not len(a):
        return a.sum()
    rows = 1 - _pearson(a, b, 1).mean()
    columns = 1 - _pearson(a, b, 0).mean()
    return (n.temperature**2 * (n.beta * rows + n.gamma * columns)).to(dtype)


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    def centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(dim, keepdim=True)
        deviation = x - mean
        squares = (deviation * deviation).sum(dim)
        flat = squares <= (FLAT * mean.squeeze(dim)) ** 2 * x.shape[dim]
        return deviation, squares, flat

    a, a_squares, a_flat = centred(a)
    b, b_squares, b_flat = centred(b)
    # A side that is flat must not hide NaN on the other.
    flat = (a_flat | b_flat) & ~torch.isnan(a_squares + b_squares)
    a_norm, b_norm = (s.masked_fill(flat, 1).sqrt() for s in (a_squares, b_squares))
    return ((a * b).sum(dim) / (a_norm * b_norm + EPSILON)).masked_fill(flat, 0)
