"""Attention transfer (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, GradeContext, above_zero
from edufast.distill.feature_algorithm import FeatureAlgorithm, as_map, matched, same_size


class AttentionTransfer(FeatureAlgorithm):
    """Logit loss ``+ weight * sum_pairs mean((n(a_s) - n(a_t))^2)``, with ``a = mean_c f^2``.

    The attention map a shows where features are strong; n divides it by its Euclidean norm. The
    larger map of each pair is average-pooled to the size of the smaller one. The mean is over rows
    and locations, as in the authors' code (the paper has the norm of the difference), and pairs are
    summed. There are no adapters to learn.

    Args:
        weight: of the sum, the paper's beta; 1000 is common.
        logits: see :class:`FeatureAlgorithm`.
    """

    def __init__(self, weight: float = 1000.0, logits: Algorithm | None = None) -> None:
        super().__init__(logits)
        self.weight = above_zero("weight", weight)
        self._pairs: list[list[tuple[int, int]]] = []

    @property
    def takes_soft_labels(self) -> bool:
        return self.logits.takes_soft_labels

    def begin_grade(self, context: GradeContext) -> None:
        self._pairs = [matched(context.student_shapes, t) for t in context.teacher_shapes]
        super().begin_grade(context)

    def create_adapter(self, context: GradeContext, position: int) -> nn.Module:
        return nn.Identity()

    def compare(
        self,
        position: int,
        features: list[Tensor],
        teacher_features: list[Tensor],
        labels: Tensor,
        index: Tensor,
    ) -> Tensor:
        losses = []
        for i, j in self._pairs[position]:
            student, teacher = same_size(as_map(features[i]), as_map(teacher_features[j]))
            losses.append(F.mse_loss(_attention(student), _attention(teacher)))
        return self.weight * torch.stack(losses).sum()


def _attention(x: Tensor) -> Tensor:
    return F.normalize(x.square().mean(1).flatten(1), dim=1)
