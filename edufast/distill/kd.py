"""Knowledge distillation on softened logits (Hinton et al. 2015), with the fused operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, share
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import Weighting, find_weighting, operator_weighting, reads_labels
from edufast.ops import kd_loss
from edufast.ops.reference.kd_loss import Numbers
from edufast.ops.reference.kd_loss_divergences import DEFAULT_PARAMS, DIVERGENCES
from edufast.utils.errors import UserError, unknown
from edufast.utils.numbers import real_numbers


class KD(Algorithm):
    """``alpha * CE + (1 - alpha) * T^2 * sum_k w_k D_k``, D_k over the slice of teacher k.

    T^2 is applied, the weights w_k sum to 1, and the mean is over the rows not ignored. Reverse KL
    leaves out classes at which a teacher of all classes has -inf: the student's probability there
    would make it infinite.

    Args:
        temperature: T.
        alpha: weight of the cross-entropy.
        weighting: of several teachers, see :func:`edufast.distill.weighting.find_weighting`.
        divergence: "forward_kl", "reverse_kl" (Gu et al. 2024, "MiniLLM"), "js" or "dkd".
        divergence_params: see :func:`edufast.ops.kd_loss`.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 0.3,
        weighting: str | Weighting = "mean",
        divergence: str = "forward_kl",
        divergence_params: Sequence[float] | None = None,
    ) -> None:
        super().__init__(temperature)
        if divergence not in [*DIVERGENCES]:  # in a recipe it may be anything
            raise unknown("divergence", divergence, DIVERGENCES)
        self.alpha = share("alpha", alpha)
        self.weighting = find_weighting(weighting)
        self.divergence = divergence
        self.divergence_params = _checked_params(divergence, divergence_params)

    @property
    def takes_soft_labels(self) -> bool:
        return self.divergence != "dkd" and not reads_labels(self.weighting)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        weighting = operator_weighting(self.weighting, logits, outputs, labels, self.temperature)
        distil = partial(
            kd_loss,
            teachers=outputs.logits,
            labels=labels,
            slices=outputs.slices,
            temperature=self.temperature,
            weighting=weighting,
            divergence=self.divergence,
            divergence_params=self.divergence_params,
        )
        if self.divergence == "reverse_kl" and outputs.slices is None:
            unknown = torch.stack([torch.isneginf(t) for t in outputs.logits]).any(0)
            divergence = distil(logits.masked_fill(unknown, -torch.inf), alpha=0.0)
            cross_entropy = F.cross_entropy(logits.float(), labels)
            return self.alpha * cross_entropy + (1 - self.alpha) * divergence
        return distil(logits, alpha=self.alpha)


def _checked_params(divergence: str, params: Sequence[float] | None) -> tuple[float, ...]:
    """Now, because the first loss may be hours away."""
    if params is None:
        return DEFAULT_PARAMS[divergence]
    try:
        numbers = real_numbers("divergence_params", params, -math.inf)
        Numbers([], 0.0, 0.0, numbers).check(0, divergence)
    except ValueError as error:
        raise UserError(str(error)) from None
    return numbers
