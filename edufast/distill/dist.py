"""DIST (Huang et al. 2022), with the fused operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, at_least_zero
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import (
    Weighting,
    find_weighting,
    reads_labels,
    slices_of,
    weights,
)
from edufast.ops import dist_loss


class DIST(Algorithm):
    """``CE + sum_k w_k tau^2 (beta (1 - mean_b r(rows)) + gamma (1 - mean_c r(columns)))``.

    r is Pearson's correlation of the softened distributions over the slice of teacher k. The factor
    tau^2 is applied, as in the authors' code. Columns are compared over the batch, so a teacher has
    one weight for the whole batch: the mean of its rows' weights or, if samples are routed and it
    is compared on its own rows only, their share of the batch. The weights sum to 1, or to less if
    some rows have no owner. Ignored rows are not supported: all labels must be classes.

    Args:
        temperature: tau; 1 in the paper for ImageNet, 4 for CIFAR-100.
        beta: weight of the rows (relations between classes).
        gamma: weight of the columns (relations within a class); the paper uses 2 for both on
            CIFAR-100.
        weighting: of several teachers, see :func:`edufast.distill.weighting.find_weighting`.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        weighting: str | Weighting = "mean",
    ) -> None:
        super().__init__(temperature)
        self.beta, self.gamma = at_least_zero("beta", beta), at_least_zero("gamma", gamma)
        self.weighting = find_weighting(weighting)

    @property
    def takes_soft_labels(self) -> bool:
        return not reads_labels(self.weighting)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        slices, routed = slices_of(outputs), outputs.weighting == "routed"
        factors: Sequence[float] | Tensor
        if routed:
            counts = [part.stop - part.start for part in outputs.rows]
            factors = [count / max(1, len(labels)) for count in counts]
        else:
            factors = weights(self.weighting, logits, outputs, labels, self.temperature).mean(0)
        loss = F.cross_entropy(logits.float(), labels)
        for k, teacher in enumerate(outputs.logits):
            part = outputs.rows[k] if routed else slice(None)
            if len(labels[part]):
                loss = loss + factors[k] * dist_loss(
                    slices.select(logits[part], k),
                    teacher[part],
                    temperature=self.temperature,
                    beta=self.beta,
                    gamma=self.gamma,
                )
        return loss
