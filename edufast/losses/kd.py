"""Knowledge distillation on softened logits (Hinton et al. 2015), by the fused operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from edufast.lesson import Teaching
from edufast.ops import kd_loss


@dataclass(frozen=True)
class KD:
    """``alpha * CE + (1 - alpha) * T^2 * D``, with the divergence D over the teachers' slices.

    Attributes:
        temperature: T.
        alpha: weight of the cross-entropy.
        divergence: and its parameters: see :func:`edufast.ops.kd_loss`.
    """

    temperature: float = 4.0
    alpha: float = 0.3
    divergence: str = "forward_kl"
    divergence_params: Sequence[float] | None = None

    def __call__(self, student: Tensor, teaching: Teaching, labels: Tensor) -> Tensor:
        return kd_loss(
            student,
            teaching.logits,
            labels,
            slices=teaching.slices,
            temperature=self.temperature,
            alpha=self.alpha,
            weighting=teaching.weighting,
            divergence=self.divergence,
            divergence_params=self.divergence_params,
        )
