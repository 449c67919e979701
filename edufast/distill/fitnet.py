"""FitNets: hints from the middle of the teacher (Romero et al. 2015)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, GradeContext, above_zero, share
from edufast.distill.feature_algorithm import (
    FeatureAlgorithm,
    as_map,
    map_shape,
    matched,
    same_size,
)
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.utils.errors import UserError


class FitNet(FeatureAlgorithm):
    """Logit loss ``+ weight * mean((r(f_s) - f_t)^2)``, or first the one and then the other.

    f_s and f_t are the middle pair of maps (the deepest one in an early grade), the larger map
    average-pooled to the size of the smaller one; r is a 1x1 convolution to the teacher's channels,
    learned with the student. The mean is over rows, channels and locations.

    The paper trains in two stages: on the hint alone, which reaches the layers up to the guided
    one, then on the logits alone. Most later code trains on the sum. Both are implemented; in the
    first stage the layers above the guided one only decay.

    Args:
        stage: "joint" for the sum, or "two_stage".
        weight: of the hint loss.
        hint_share: share of all epochs of the training that the first of two stages takes.
        logits: see :class:`FeatureAlgorithm`.
    """

    guides: Tensor

    def __init__(
        self,
        stage: Literal["joint", "two_stage"] = "joint",
        weight: float = 100.0,
        hint_share: float = 0.125,
        logits: Algorithm | None = None,
    ) -> None:
        super().__init__(logits)
        if stage not in ("joint", "two_stage"):
            raise UserError(f"stage is {stage!r}; expected 'joint' or 'two_stage'")
        self.stage = stage
        self.weight = above_zero("weight", weight)
        self.hint_share = share("hint_share", hint_share)
        self._pairs: list[tuple[int, int]] = []
        self.register_buffer("guides", torch.ones(2))  # factors of the logit and the hint loss

    @property
    def takes_soft_labels(self) -> bool:
        return self.logits.takes_soft_labels

    def begin_grade(self, context: GradeContext) -> None:
        pairs = [matched(context.student_shapes, shapes) for shapes in context.teacher_shapes]
        self._pairs = [found[len(found) // 2] for found in pairs]
        super().begin_grade(context)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        super().begin_epoch(epoch, epochs)
        if self.stage == "two_stage":
            hinted = epoch < max(1, round(self.hint_share * epochs))
            self.guides[0].fill_(not hinted)
            self.guides[1].fill_(hinted)

    def create_adapter(self, context: GradeContext, position: int) -> nn.Module:
        i, j = self._pairs[position]
        channels = map_shape(context.student_shapes[i])[0]
        return nn.Conv2d(channels, map_shape(context.teacher_shapes[position][j])[0], 1)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        return self.guides[0] * super().logit_loss(logits, outputs, labels)

    def compare(
        self,
        position: int,
        features: list[Tensor],
        teacher_features: list[Tensor],
        labels: Tensor,
        index: Tensor,
    ) -> Tensor:
        i, j = self._pairs[position]
        regressor = list(self.adapters.values())[position]
        student, teacher = same_size(as_map(features[i]), as_map(teacher_features[j]))
        return self.guides[1] * self.weight * F.mse_loss(regressor(student), teacher)
