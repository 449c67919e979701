"""The weights of the teachers in the multi-teacher loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edufast.ops.reference._softmax import softmax
from edufast.ops.slices import ClassSlices

# Below, a teacher is certain: such numbers underflow. csrc/kd_loss.h has it, too.
LEAST_ENTROPY = 1e-30
# The numbers are part of the operator's schema; csrc/kd_loss.h holds the same list.
WEIGHTINGS = {"given": 0, "mean": 1, "routed": 2, "entropy": 3, "confidence": 4}


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

    soft = [softmax(t) for t in teachers]
    if weighting == WEIGHTINGS["entropy"]:
        if k == 1:
            return torch.ones(rows, 1, dtype=dtype, device=device)
        entropy = torch.stack([-(s.p * s.log_p.masked_fill(s.masked, 0)).sum(1) for s in soft], 1)
        entropy = entropy.masked_fill(entropy < LEAST_ENTROPY, 0)
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
