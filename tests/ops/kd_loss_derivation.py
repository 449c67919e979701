"""docs/kernels.md in fp64: the coefficients of every gradient, and where rounding enters."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Of ``own a + other b + ratio a (log_ratio - mean)``, and ``label`` at the label; (B, 1)."""

    own: Tensor
    other: Tensor
    ratio: Tensor
    mean: Tensor
    label: Tensor


class Side(NamedTuple):
    """One side of a divergence: a is its softmax, b the other's, by their logarithms (B, n)."""

    log_a: Tensor
    log_b: Tensor
    log_ratio: Tensor  # what ``ratio`` multiplies
    slope: Tensor  # of ``log_ratio`` for log b - log a: how much of their errors it takes over
    coefficients: Coefficients

    def gradient(self, is_label: Tensor) -> Tensor:
        c, a, b = self.coefficients, self.log_a.exp(), self.log_b.exp()
        g = c.own * a + c.other * b + c.ratio * a * (self.log_ratio - c.mean)
        if g.shape == is_label.shape:
            return g
        whole = c.label.expand(is_label.shape).clone()  # DKD: the others come in between
        whole[~is_label] = g.flatten()
        return whole

    def digits(self) -> Tensor:
        """e^u, with u rounded, has a relative error of |u|: |log a|, for the largest u is 0."""
        return 2 - self.log_a - self.log_b

    def rounding(self) -> Tensor:
        """(B,), in units of the precision: what rounding u and v alone does to the gradient."""
        c, a, b = self.coefficients, self.log_a.exp(), self.log_b.exp()
        taken = (self.log_ratio - c.mean).abs() + self.slope
        terms = (c.own.abs() * a + c.other.abs() * b + c.ratio * a * taken) * self.digits()
        # What the mean of the log ratios takes over reaches every class.
        mean = (a * (self.log_ratio.abs() + self.slope) * self.digits()).sum(1, keepdim=True)
        at_label = c.label.abs()[:, 0] * self.digits().amax(1)
        return (terms + c.ratio * a * mean).amax(1) + at_label


class Divergence(NamedTuple):
    value: Tensor  # (B, 1)
    student: Side
    teacher: Side
    rounding: Tensor  # (B,), in units of the precision: what rounding u and v does to the value

    @classmethod
    def of(cls, value: Tensor, student: Side, teacher: Side) -> Divergence:
        """Where the value is the sum over both sides of ratio a log_ratio."""
        rounding = torch.zeros_like(value[:, 0])
        for side in (student, teacher):
            terms = side.log_a.exp() * (side.log_ratio.abs() + side.slope) * side.digits()
            rounding = rounding + side.coefficients.ratio[:, 0] * terms.sum(1)
        return cls(value, student, teacher, rounding)


def forward_kl(log_p: Tensor, log_q: Tensor) -> Divergence:
    log_ratio = log_q - log_p
    value = (log_q.exp() * log_ratio).sum(1, keepdim=True)
    one, zero = torch.ones_like(value), torch.zeros_like(value)
    slope = torch.ones_like(log_p)
    student, teacher = (one, -one, zero, zero, zero), (zero, zero, one, value, zero)
    return Divergence.of(
        value,
        Side(log_p, log_q, -log_ratio, slope, Coefficients(*student)),
        Side(log_q, log_p, log_ratio, slope, Coefficients(*teacher)),
    )


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Divergence:
    kl = forward_kl(log_q, log_p)
    return kl._replace(student=kl.teacher, teacher=kl.student)


def js(log_p: Tensor, log_q: Tensor, beta: float) -> Divergence:
    log_m = torch.logaddexp(log_p + math.log1p(-beta), log_q + math.log(beta))

    def side(log_a: Tensor, log_b: Tensor, a_share: float, b_share: float) -> Side:
        log_ratio = log_a - log_m
        slope = (math.log(b_share) + log_b - log_m).exp()
        mean = (log_a.exp() * log_ratio).sum(1, keepdim=True)
        zero = torch.zeros_like(mean)
        return Side(
            log_a, log_b, log_ratio, slope, Coefficients(zero, zero, zero + a_share, mean, zero)
        )

    student, teacher = side(log_p, log_q, 1 - beta, beta), side(log_q, log_p, beta, 1 - beta)
    value = beta * teacher.coefficients.mean + (1 - beta) * student.coefficients.mean
    return Divergence.of(value, student, teacher)


def dkd(log_p: Tensor, log_q: Tensor, is_label: Tensor, target: float, rest: float) -> Divergence:
    """``is_label`` (B, n) marks one class a row; the sides are those over the other classes."""

    def split(log_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        label = log_x.masked_fill(~is_label, 0).sum(1, keepdim=True)
        rest = torch.logsumexp(log_x.masked_fill(is_label, -math.inf), 1, keepdim=True)
        others = (log_x - rest)[~is_label].view(len(log_x), -1)
        return label, rest, others

    (log_py, log_pr, log_p_rest), (log_qy, log_qr, log_q_rest) = split(log_p), split(log_q)
    kl = forward_kl(log_p_rest, log_q_rest)
    binary = forward_kl(torch.cat([log_py, log_pr], 1), torch.cat([log_qy, log_qr], 1))
    (py, qy, qr) = (x.exp() for x in (log_py, log_qy, log_qr))
    s = target * qy * qr * ((log_qy - log_py) - (log_qr - log_pr))
    one, zero = torch.ones_like(s), torch.zeros_like(s)
    student = (rest + target * (qy - py), -rest * one, zero, zero, target * (py - qy))
    teacher = (-s, zero, rest * one, kl.value, s)
    return Divergence(
        target * binary.value + rest * kl.value,
        kl.student._replace(coefficients=Coefficients(*student)),
        kl.teacher._replace(coefficients=Coefficients(*teacher)),
        target * binary.rounding + rest * kl.rounding,
    )


def derived(name: str, z: Tensor, t: Tensor, is_label: Tensor, params: tuple) -> Divergence:
    """Between softened logits (B, n), in fp64."""
    log_p, log_q = torch.log_softmax(z.double(), 1), torch.log_softmax(t.double(), 1)
    if name == "dkd":
        return dkd(log_p, log_q, is_label, *params)
    return {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "js": js}[name](
        log_p, log_q, *params
    )
