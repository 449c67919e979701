"""Softmax and Kullback-Leibler divergence of rows that may hold -inf."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops._numbers import Number

# Above, sums of float32 may overflow, sooner or later by their order; csrc/kd_loss.h has it, too.
LARGEST_DIVERGENCE = 1e32


class Softmax(NamedTuple):
    log_p: Tensor  # (B, n), -inf where masked
    p: Tensor  # (B, n)
    masked: Tensor  # (B, n) bool: the logit is -inf
    empty: Tensor  # (B,) bool: every logit is -inf


def softmax(logits: Tensor, temperature: Number = 1.0) -> Softmax:
    """Of each row of ``logits / temperature`` (B, n); an empty row has probabilities of 0."""
    x = logits / temperature
    masked = torch.isneginf(x)
    empty = masked.all(1)
    shift = x.detach().masked_fill(masked, torch.finfo(x.dtype).min).amax(1, keepdim=True)
    shifted = x - shift  # first: where logits are large, the logarithm would be lost in them
    total = torch.exp(shifted).sum(1, keepdim=True)
    log_p = shifted - torch.log(total.masked_fill(empty[:, None], 1.0))
    return Softmax(log_p, torch.exp(log_p), masked, empty)


def kl(a: Softmax, b: Softmax) -> Tensor:
    """KL(a || b) per row; classes that ``a`` masks contribute 0; 0 where a side is empty; infinity
    above :data:`LARGEST_DIVERGENCE`."""
    none = a.p == 0  # where logits are far apart, 0 times their ratio would be NaN
    ratio = a.log_p.masked_fill(none, 0) - b.log_p.masked_fill(none | b.masked, 0)
    # Mass, though it may have underflown, on a class that ``b`` masks.
    outside = (b.masked & ~a.masked).any(1)
    divergence = (a.p * ratio).sum(1)
    divergence = divergence.masked_fill(outside | (divergence > LARGEST_DIVERGENCE), math.inf)
    # A logit that is NaN or inf has made its whole row NaN.
    divergence = divergence.masked_fill(torch.isnan(a.log_p[:, 0] + b.log_p[:, 0]), math.nan)
    return divergence.masked_fill(a.empty | b.empty, 0)


def log_of_zero(dtype: torch.dtype) -> float:
    """Stands for log 0 where -inf has no derivative; its products with T^2 do not overflow."""
    return -math.sqrt(torch.finfo(dtype).max)
