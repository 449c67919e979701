"""The divergences of the multi-teacher loss between a student's and a teacher's softmax.

Each is a function of a :class:`Pair`, named as in every backend's ``kd_loss_divergences``. The
gradients are autograd's here; docs/kernels.md derives those that the backends write out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops._numbers import Number
from edufast.ops.reference._softmax import Softmax, kl, log_of_zero, softmax

# The numbers are part of the operator's schema; csrc/kd_loss.h holds the same list.
DIVERGENCES = {"forward_kl": 0, "reverse_kl": 1, "js": 2, "dkd": 3}
DEFAULT_PARAMS: dict[str, tuple[float, ...]] = {
    "forward_kl": (),
    "reverse_kl": (),
    "js": (0.5,),  # beta
    "dkd": (1.0, 8.0),  # target_weight, rest_weight
}


class Pair(NamedTuple):
    """What a divergence compares, row by row."""

    z: Tensor  # (B, n) logits of the student over the temperature
    t: Tensor  # (B, n) logits of the teacher over the temperature
    label: Tensor  # (B,) position of the label among the n classes; 0 where it is not there
    has_label: Tensor  # (B,) bool: it is there


def forward_kl(pair: Pair) -> Tensor:
    """KL(q || p), q the teacher's softmax."""
    return kl(softmax(pair.t), softmax(pair.z))


def reverse_kl(pair: Pair) -> Tensor:
    """KL(p || q), p the student's softmax."""
    return kl(softmax(pair.z), softmax(pair.t))


def js(pair: Pair, beta: Number) -> Tensor:
    """``beta KL(q || m) + (1 - beta) KL(p || m)`` with ``m = beta q + (1 - beta) p``."""
    p, q = softmax(pair.z), softmax(pair.t)
    floor = log_of_zero(pair.z.dtype)
    log_p, log_q = p.log_p.clamp_min(floor), q.log_p.clamp_min(floor)
    # log(m / p) and log(m / q) as they stand: log m would lose the digits in which it differs.
    ahead, shares = log_q - log_p, torch.zeros_like(log_p)
    if isinstance(beta, Tensor):
        log_beta, log_rest = shares + torch.log(beta), shares + torch.log1p(-beta)
    else:
        log_beta, log_rest = shares + math.log(beta), shares + math.log1p(-beta)
    p_to_m = -torch.logaddexp(log_rest, ahead + log_beta)
    q_to_m = -torch.logaddexp(log_beta, log_rest - ahead)
    terms = beta * q.p * q_to_m + (1 - beta) * p.p * p_to_m
    return terms.sum(1).masked_fill(p.empty | q.empty, 0)


def dkd(pair: Pair, target_weight: Number, rest_weight: Number) -> Tensor:
    """Decoupled KD (Zhao et al. 2022, eq. 7); without the label, its second term.

    ``target_weight KL(b_t || b_s) + rest_weight KL(rest of t || rest of s)``: b = (p_label,
    1 - p_label), and the rest is the softmax over the classes without the label.
    """
    z, t, label, has_label = pair
    is_label = torch.zeros_like(z, dtype=torch.bool).scatter_(1, label[:, None], has_label[:, None])
    z_rest = softmax(z.masked_fill(is_label, -math.inf))
    t_rest = softmax(t.masked_fill(is_label, -math.inf))

    def binary(whole: Softmax, rest_is_empty: Tensor) -> Softmax:
        """(p_label, 1 - p_label); the logarithm of the latter is a log-sum-exp of the rest."""
        at_label = whole.log_p.gather(1, label[:, None])
        least = torch.finfo(z.dtype).min  # no more than any logarithm; -inf has no derivative
        rest = torch.logsumexp(whole.log_p.masked_fill(is_label | whole.masked, least), 1, True)
        log_b = torch.cat([at_label, rest.masked_fill(rest_is_empty[:, None], -math.inf)], 1)
        return Softmax(log_b, torch.exp(log_b), torch.isneginf(log_b), whole.empty)

    target = kl(binary(softmax(t), t_rest.empty), binary(softmax(z), z_rest.empty))
    return target_weight * target.masked_fill(~has_label, 0) + rest_weight * kl(t_rest, z_rest)


_FUNCTIONS = (forward_kl, reverse_kl, js, dkd)


def divergence(number: int, params: Sequence[Number], pair: Pair) -> Tensor:
    """The divergence with this number in :data:`DIVERGENCES`, (B,)."""
    return _FUNCTIONS[number](pair, *params)
