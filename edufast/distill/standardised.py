"""Logit standardisation (Sun et al. 2024, "Logit Standardization in Knowledge Distillation")."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, at_least_zero
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import Weighting, find_weighting, slices_of, weights
from edufast.ops import kd_loss

# Added to the variance, so that a constant row becomes zeros and its gradient stays bounded.
EPSILON = 1e-7


class Standardised(Algorithm):
    """``alpha * CE + beta * T^2 * sum_k w_k KL(softmax(Z(t_k) / T) || softmax(Z(z[S_k]) / T))``.

    Z is the z-score of a row over the slice of teacher k: the student need not match the scale of
    the logits, only their order and relative distances. The standard deviation divides by the
    number of classes, as in the paper (the authors' code divides by one less). Classes at -inf are
    left out. T^2 is applied, the weights w_k sum to 1, and the mean is over the rows not ignored.

    Args:
        temperature: T, the paper's base temperature.
        alpha: weight of the cross-entropy.
        beta: weight of the divergence; the authors use 0.1 and 9.
        weighting: of several teachers, computed from their raw logits, see
            :func:`edufast.distill.weighting.find_weighting`.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        alpha: float = 0.1,
        beta: float = 9.0,
        weighting: str | Weighting = "mean",
    ) -> None:
        super().__init__(temperature)
        self.alpha, self.beta = at_least_zero("alpha", alpha), at_least_zero("beta", beta)
        self.weighting = find_weighting(weighting)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        slices = slices_of(outputs)
        known = [~torch.isneginf(t) for t in outputs.logits]
        scored = [_z_score(slices.select(logits, k), mask) for k, mask in enumerate(known)]
        bounds = itertools.accumulate(slices.sizes, initial=0)
        divergence = kd_loss(
            torch.cat(scored, 1),  # each slice has its own scores, hence its own columns
            [_z_score(t.detach(), mask) for t, mask in zip(outputs.logits, known, strict=True)],
            labels.clamp(max=0),  # only used to ignore rows
            slices=list(itertools.pairwise(bounds)),
            temperature=self.temperature,
            alpha=0.0,
            weighting=weights(self.weighting, logits, outputs, labels, self.temperature),
        )
        return self.alpha * F.cross_entropy(logits.float(), labels) + self.beta * divergence


def _z_score(x: Tensor, known: Tensor) -> Tensor:
    """Rows (B, C) with mean 0 and variance 1 over the ``known`` classes; -inf elsewhere."""
    x, count = x.float().masked_fill(~known, 0), known.sum(1, keepdim=True).clamp_min(1)
    centred = (x - x.sum(1, keepdim=True) / count).masked_fill(~known, 0)
    variance = centred.square().sum(1, keepdim=True) / count
    return (centred * (variance + EPSILON).rsqrt()).masked_fill(~known, -torch.inf)
