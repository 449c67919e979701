"""Decoupled knowledge distillation (Zhao et al. 2022), with the fused operator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, at_least_zero
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import Weighting, find_weighting, operator_weighting
from edufast.ops import kd_loss


class DKD(Algorithm):
    """``CE + warm * T^2 * sum_k w_k (a KL(b_t || b_s) + b KL(phat_t || phat_s))``.

    b = (p_y, 1 - p_y), and phat the distribution over the classes without y (eq. 7 of the paper).
    For a teacher that does not know y only the second term counts, over its whole slice. T^2 is
    applied, the weights w_k sum to 1, and the mean is over the rows not ignored. ``warm`` rises
    linearly to 1, as in the authors' code: ``min(1, epoch / warm_up)`` with epochs from 1.

    Args:
        temperature: T.
        target_weight: a, of the target-class term.
        rest_weight: b, of the other classes; between 1 and 8 in the paper, depending on the
            teacher.
        warm_up: epochs of warm-up, counted over the whole training; 0: none.
        weighting: of several teachers, see :func:`edufast.distill.weighting.find_weighting`.
    """

    warm: Tensor

    def __init__(
        self,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        rest_weight: float = 8.0,
        warm_up: float = 20,
        weighting: str | Weighting = "mean",
    ) -> None:
        super().__init__(temperature)
        self.params = (
            at_least_zero("target_weight", target_weight),
            at_least_zero("rest_weight", rest_weight),
        )
        self.warm_up = at_least_zero("warm_up", warm_up)
        self.weighting = find_weighting(weighting)
        self.register_buffer("warm", torch.ones(()))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.warm.fill_(min(1.0, (epoch + 1) / self.warm_up) if self.warm_up else 1.0)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        divergence = kd_loss(
            logits,
            outputs.logits,
            labels,
            slices=outputs.slices,
            temperature=self.temperature,
            alpha=0.0,
            weighting=operator_weighting(self.weighting, logits, outputs, labels, self.temperature),
            divergence="dkd",
            divergence_params=self.params,
        )
        return F.cross_entropy(logits.float(), labels) + self.warm * divergence
