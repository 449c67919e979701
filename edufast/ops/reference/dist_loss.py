"""The specification of DIST: its arguments and a plain PyTorch reference."""

from __future__ import annotations

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
from edufast.ops.reference._softmax import softmax

# Of the correlation's denominator, as in the authors' code; csrc/dist_loss.h holds the same.
EPSILON = 1e-8
# Deviations up to this part of the mean count as none: rounding alone makes some of 1e-7.
FLAT = 1e-6


class DistLoss(NamedTuple):
    """The arguments of the operator ``edufast::dist_loss``, in the order of its schema."""

    student: Tensor  # (B, C) logits
    teacher: Tensor  # (B, C) logits
    temperature: float
    beta: float
    gamma: float

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
        check_temperature("temperature", self.temperature)
        check_weight("beta", self.beta)
        check_weight("gamma", self.gamma)


def reference(p: DistLoss) -> Tensor:
    """The specification, in plain differentiable PyTorch (fp32, or fp64 for fp64 logits).

    Conventions, which every backend shares:

    - ``pearson(a, b) = sum a' b' / (|a'| |b'| + 1e-8)``, a' and b' centred; as in the authors'
      code, whose loss likewise carries tau^2.
    - A row or column that is constant on either side (deviations below 1e-6 of the mean) has
      correlation 0 and no gradient. So do the columns of a single row, and a single class.
    - Classes at -inf have probability 0. A row that is -inf throughout counts as zeros.
    - NaN in a logit gives a NaN loss.
    - Without rows the loss is 0. The teacher is a constant: no gradient flows into it.
    """
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    a = softmax(p.student.to(dtype), p.temperature).p
    b = softmax(p.teacher.detach().to(dtype), p.temperature).p
    if not len(a):
        return a.sum()
    rows = 1 - _pearson(a, b, 1).mean()
    columns = 1 - _pearson(a, b, 0).mean()
    return p.temperature**2 * (p.beta * rows + p.gamma * columns)


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    def centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(dim, keepdim=True)
        deviation = x - mean
        squares = (deviation * deviation).sum(dim)
        flat = squares <= (FLAT * mean.squeeze(dim)) ** 2 * x.shape[dim]
        return deviation, squares, flat

    a, a_squares, a_flat = centred(a)
    b, b_squares, b_flat = centred(b)
    flat = a_flat | b_flat
    a_norm, b_norm = (s.masked_fill(flat, 1).sqrt() for s in (a_squares, b_squares))
    return ((a * b).sum(dim) / (a_norm * b_norm + EPSILON)).masked_fill(flat, 0)
