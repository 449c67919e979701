"""The specification of the multi-teacher loss: its arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops.slices import ClassSlices

# The numbers are the operator's schema; csrc/kd_loss.h holds the same lists.
WEIGHTINGS = {"given": 0, "mean": 1, "routed": 2, "entropy": 3, "confidence": 4}
DIVERGENCES = {"forward_kl": 0, "reverse_kl": 1, "js": 2, "dkd": 3}
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
DEFAULT_PARAMS: dict[str, tuple[float, ...]] = {
    "forward_kl": (),
    "reverse_kl": (),
    "js": (0.5,),
    "dkd": (1.0, 8.0),
}


class Problem(NamedTuple):
    """The validated arguments of one call, in the order of the operator's schema."""

    student: Tensor
    teachers: list[Tensor]
    labels: Tensor
    weights: Tensor | None
    columns: list[Tensor]
    starts: list[int]
    temperatures: list[float]
    alpha: float
    weighting: int
    divergence: int
    divergence_params: list[float]
    label_smoothing: float
    ignore_index: int
    reduction: int
    teacher_grad: bool


class _Softened(NamedTuple):
    log_p: Tensor  # (B, n), -inf where masked
    p: Tensor  # (B, n)
    masked: Tensor  # (B, n) bool: the logit is -inf
    empty: Tensor  # (B,) bool: every logit is -inf


def _soften(logits: Tensor, temperature: float = 1.0) -> _Softened:
    x = logits / temperature
    masked = torch.isneginf(x)
    empty = masked.all(1)
    shift = x.detach().masked_fill(masked, torch.finfo(x.dtype).min).amax(1, keepdim=True)
    total = torch.exp(x - shift).sum(1, keepdim=True)
    log_p = x - (shift + torch.log(total.masked_fill(empty[:, None], 1.0)))
    return _Softened(log_p, torch.exp(log_p), masked, empty)


def _kl(a: _Softened, b: _Softened) -> Tensor:
    """KL(a || b) per row; classes that ``a`` masks contribute 0; 0 where a side is empty."""
    ratio = a.log_p.masked_fill(a.masked, 0) - b.log_p.masked_fill(a.masked | b.masked, 0)
    # Mass, though it may have underflown, on a class that ``b`` masks.
    outside = (b.masked & ~a.masked).any(1)
    kl = (a.p * ratio).sum(1).masked_fill(outside, math.inf)
    return kl.masked_fill(a.empty | b.empty, 0)


def _floor(dtype: torch.dtype) -> float:
    """Stands for log 0 where -inf has no derivative; its products with T^2 do not overflow."""
    return -math.sqrt(torch.finfo(dtype).max)


def _js(s: _Softened, t: _Softened, beta: float) -> Tensor:
    floor = _floor(s.log_p.dtype)
    log_s, log_t = s.log_p.masked_fill(s.masked, floor), t.log_p.masked_fill(t.masked, floor)
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    terms = beta * t.p * (log_t - log_m) + (1 - beta) * s.p * (log_s - log_m)
    return terms.sum(1).masked_fill(s.empty | t.empty, 0)


def _dkd(
    z: Tensor, t: Tensor, local: Tensor, inside: Tensor, target: float, other: float
) -> Tensor:
    """Decoupled KD (Zhao et al. 2022, eq. 7) on softened logits; without y, its second term."""
    is_label = torch.zeros_like(z, dtype=torch.bool).scatter_(1, local[:, None], inside[:, None])
    zs, ts = _soften(z), _soften(t)
    z_rest = _soften(z.masked_fill(is_label, -math.inf))
    t_rest = _soften(t.masked_fill(is_label, -math.inf))

    def binary(full: _Softened, rest: Tensor) -> _Softened:
        """(p_y, 1 - p_y) in log space: log(1 - p_y) is the log-sum-exp of the other classes."""
        label = full.log_p.gather(1, local[:, None])
        others = torch.logsumexp(full.log_p.masked_fill(is_label | full.masked, floor), 1, True)
        log_b = torch.cat([label, others.masked_fill(rest[:, None], -math.inf)], 1)
        return _Softened(log_b, torch.exp(log_b), torch.isneginf(log_b), full.empty)

    floor = _floor(z.dtype)
    target_kl = _kl(binary(ts, t_rest.empty), binary(zs, z_rest.empty))
    return target * target_kl.masked_fill(~inside, 0) + other * _kl(t_rest, z_rest)


def row_weights(
    weighting: int, labels: Tensor, slices: ClassSlices, teachers: list[Tensor]
) -> Tensor:
    """(B, K) weights by one of WEIGHTINGS but "given"; constants: no gradient flows through them.

    Args:
        weighting: its number.
        labels: (B,) in [0, C).
        slices: the teachers' classes.
        teachers: K float32 or float64 logits (B, C_k), detached.
    """
    rows, k = len(labels), len(teachers)
    dtype, device = teachers[0].dtype, labels.device
    if weighting == WEIGHTINGS["mean"]:
        return torch.full((rows, k), 1 / k, dtype=dtype, device=device)

    known = torch.stack([slices.local_label(labels, i)[1] for i in range(k)], 1)
    if weighting == WEIGHTINGS["routed"]:
        owners = known.to(dtype)
        return owners / owners.sum(1, keepdim=True).clamp_min(1)

    soft = [_soften(t) for t in teachers]
    if weighting == WEIGHTINGS["entropy"]:
        if k == 1:
            return torch.ones(rows, 1, dtype=dtype, device=device)
        entropy = torch.stack([-(s.p * s.log_p.masked_fill(s.masked, 0)).sum(1) for s in soft], 1)
        total = entropy.sum(1, keepdim=True)
        share = torch.where(total == 0, torch.full_like(entropy, 1 / k), entropy / total)
        return (1 - share) / (k - 1)

    cross_entropy = torch.stack(
        [
            -s.log_p.gather(1, slices.local_label(labels, i)[0][:, None])[:, 0]
            for i, s in enumerate(soft)
        ],
        1,
    )
    # Teachers that do not know the label take no part; a lone one gets the whole weight.
    count = known.sum(1, keepdim=True)
    share = torch.softmax(cross_entropy.clamp(max=1e30).masked_fill(~known, -math.inf), 1)
    return torch.where(count > 1, (1 - share) / (count - 1).clamp_min(1), 1.0).to(dtype) * known


def reference(p: Problem) -> Tensor:
    """The specification, in plain differentiable PyTorch (fp32, or fp64 for fp64 logits).

    Conventions, which every backend shares:

    - The divergence of teacher k is taken over its slice at T_k and multiplied by T_k^2; its
      gradient therefore has the scale of the cross-entropy's (Hinton et al. 2015, section 2).
    - Weights are constants: no gradient flows through them. "mean", "entropy" and given weights
      apply to every row; "routed" and "confidence" to the teachers whose slice holds the label.
    - A teacher with weight 0 on a row is not read there (it may hold anything, NaN included).
    - Classes at -inf have probability 0. A slice that is -inf throughout, on either side,
      contributes nothing. NaN in a logit that is read gives a NaN loss.
    - A divergence is infinite where one side has mass and the other is masked (forward KL: the
      student; reverse KL: the teacher); its gradient is then finite and otherwise unspecified.
    - "mean" divides by the number of rows that are not ignored; if all are, the loss is 0.
    """
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    valid = p.labels != p.ignore_index
    labels = p.labels.where(valid, 0)
    z = p.student.to(dtype).masked_fill(~valid[:, None], 0)
    teachers = [(t if p.teacher_grad else t.detach()).to(dtype) for t in p.teachers]
    slices = ClassSlices(tuple(p.starts), tuple(p.columns), tuple(t.shape[1] for t in p.teachers))
    row_loss = torch.zeros(z.shape[0], dtype=dtype, device=z.device)
    if p.alpha != 0:
        row_loss = row_loss + p.alpha * _cross_entropy(z, labels, p.label_smoothing)
    if p.alpha != 1:
        with torch.no_grad():
            if p.weights is None:
                weights = row_weights(p.weighting, labels, slices, [t.detach() for t in teachers])
            else:
                weights = p.weights.to(dtype).expand(len(labels), len(teachers))
            weights = weights.masked_fill(~valid[:, None], 0)
        for k, t in enumerate(teachers):
            temperature, weight = p.temperatures[k], weights[:, k]
            unread = (weight == 0)[:, None]
            local, inside = slices.local_label(labels, k)
            zk = slices.select(z, k).masked_fill(unread, 0) / temperature
            tk = t.masked_fill(unread, 0) / temperature
            divergence = _divergence(p, zk, tk, local, inside)
            scale = (1 - p.alpha) * temperature**2
            row_loss = row_loss + scale * weight * divergence.masked_fill(unread[:, 0], 0)
    row_loss = row_loss.masked_fill(~valid, 0)
    if p.reduction == REDUCTIONS["none"]:
        return row_loss
    total = row_loss.sum()
    return total / valid.sum().clamp_min(1) if p.reduction == REDUCTIONS["mean"] else total


def _cross_entropy(z: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    s = _soften(z)
    label_term = -s.log_p.gather(1, labels[:, None])[:, 0]
    loss = (1 - smoothing) * label_term
    if smoothing:
        loss = loss - smoothing * s.log_p.mean(1)
    return loss.masked_fill(s.empty, math.inf)


def _divergence(p: Problem, z: Tensor, t: Tensor, local: Tensor, inside: Tensor) -> Tensor:
    if p.divergence == DIVERGENCES["dkd"]:
        return _dkd(z, t, local, inside, *p.divergence_params)
    s, q = _soften(z), _soften(t)
    if p.divergence == DIVERGENCES["forward_kl"]:
        return _kl(q, s)
    if p.divergence == DIVERGENCES["reverse_kl"]:
        return _kl(s, q)
    return _js(s, q, *p.divergence_params)
