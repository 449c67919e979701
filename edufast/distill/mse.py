"""Squared error of the logits (Ba and Caruana 2014; Kim et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, share
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import Weighting, find_weighting, slices_of, weights


class LogitMSE(Algorithm):
    """``alpha * CE + (1 - alpha) * sum_k w_k mean_c (zc - tc)^2``, over the slice of teacher k.

    zc and tc are rows minus their mean: a softmax ignores a constant added to a row, and merged
    targets may be log-probabilities, which are defined up to such a constant. Both means are
    over the classes at which the teacher is not -inf. There is no temperature, hence no T^2 (for
    large T the T^2 KL approaches half of this error). The weights w_k sum to 1, and the mean is
    over the rows not ignored.

    Args:
        temperature: only used to merge slice teachers and by the weighting.
        alpha: weight of the cross-entropy.
        weighting: of several teachers, see :func:`edufast.distill.weighting.find_weighting`.
    """

    def __init__(
        self, temperature: float = 1.0, alpha: float = 0.3, weighting: str | Weighting = "mean"
    ) -> None:
        super().__init__(temperature)
        self.alpha = share("alpha", alpha)
        self.weighting = find_weighting(weighting)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        slices, valid = slices_of(outputs), labels >= 0
        factors = weights(self.weighting, logits, outputs, labels, self.temperature)
        factors = factors.masked_fill(~valid[:, None], 0)
        total = logits.new_zeros((), dtype=torch.float32)
        for k, teacher in enumerate(outputs.logits):
            # Rows without weight are not read: they may hold NaN.
            known = ~torch.isneginf(teacher) & (factors[:, k, None] > 0)
            count = known.sum(1, keepdim=True).clamp_min(1)
            error = (slices.select(logits, k).float() - teacher.detach()).masked_fill(~known, 0)
            centred = (error - error.sum(1, keepdim=True) / count).masked_fill(~known, 0)
            total = total + (factors[:, k] * (centred.square() / count).sum(1)).sum()
        cross_entropy = F.cross_entropy(logits.float(), labels)
        return self.alpha * cross_entropy + (1 - self.alpha) * total / valid.sum().clamp_min(1)
