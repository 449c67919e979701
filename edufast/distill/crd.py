"""Contrastive representation distillation (Tian et al. 2020)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, GradeContext, above_zero, share
from edufast.distill.feature_algorithm import FeatureAlgorithm
from edufast.utils.errors import UserError


class CRD(FeatureAlgorithm):
    """Logit loss ``+ weight * (NCE(s, memory_t) + NCE(t, memory_s))``, see :class:`Contrast`.

    The embeddings of student and teacher are projected and normalised to length 1. Those of the
    same image are contrasted with those of images of other classes, which a memory bank holds for
    every training sample. The loss is a mean over the rows. Each of several teachers has its own
    projections and memory banks.

    Args:
        weight: of the contrastive loss; 0.8 in the paper.
        width: of the projections.
        negatives: largest number of negative samples; fewer if there are not as many.
        tau: temperature of the similarities.
        momentum: weight of a sample's old entry when it is updated.
        logits: see :class:`FeatureAlgorithm`.
    """

    def __init__(
        self,
        weight: float = 0.8,
        width: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
        logits: Algorithm | None = None,
    ) -> None:
        super().__init__(logits)
        for name, value in (("width", width), ("negatives", negatives)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name} is {value!r}; expected an integer of at least 1")
        self.weight, self.tau = above_zero("weight", weight), above_zero("tau", tau)
        self.momentum = share("momentum", momentum)
        self.width, self.negatives = width, negatives

    def begin_grade(self, context: GradeContext) -> None:
        super().begin_grade(context)
        for position, contrast in enumerate(self.adapters.values()):
            seen = context.labels >= 0
            if context.owners is not None:
                seen &= context.owners == position
            candidates = seen.nonzero()[:, 0]
            cast(Contrast, contrast).candidates = candidates
            cast(Contrast, contrast).classes = context.labels[candidates]

    def create_adapter(self, context: GradeContext, position: int) -> nn.Module:
        widths = (context.student_shapes[-1][0], context.teacher_shapes[position][-1][0])
        return Contrast(*widths, self.width, context.num_samples, self.tau, self.momentum)

    def compare(
        self,
        position: int,
        features: list[Tensor],
        teacher_features: list[Tensor],
        labels: Tensor,
        index: Tensor,
    ) -> Tensor:
        contrast = cast(Contrast, list(self.adapters.values())[position])
        drawn = contrast.draw(self.negatives)
        return self.weight * contrast(features[-1], teacher_features[-1], labels, index, drawn)


@torch.library.custom_op("edufast::recall", mutates_args=())
def recall(memory: Tensor, index: Tensor) -> Tensor:
    """A copy of ``memory[index]`` without gradient.

    It is an operator of its own because torch.compile may recompute a cheap one in the backward
    pass instead of keeping its result; by then the memory has changed, and gradients are wrong.
    """
    return memory[index]


@recall.register_fake
def _(memory: Tensor, index: Tensor) -> Tensor:
    return memory.new_empty(len(index), memory.shape[1])


class Contrast(nn.Module):
    """Noise-contrastive estimation (Gutmann and Hyvärinen 2010) in both directions.

    With similarities ``l = <a, m> / tau`` between an anchor and entries of the memory bank, M
    negatives among the N samples, and ``Z = N * c``: ``P = exp(l) / Z``, and the loss of a row is
    ``-log(P+ / (P+ + M/N)) - sum_- log(1 - P- / (P- + M/N))``. N cancels. c is the mean of exp(l)
    over the negatives of the first batch, and is then fixed. The positive is the entry of the row's
    own sample before the update ``m <- n(momentum * m + (1 - momentum) * a)``.

    The authors' code draws negatives for every row. Here all rows of a batch share one draw, and
    each row leaves out the samples of its own class: the same expectation up to the varying M, with
    a matrix product instead of a gather of (B, M, width).

    Args:
        student_width: of the student's embedding.
        teacher_width: of the teacher's.
        width: of both projections.
        num_samples: N.
        tau: temperature.
        momentum: of the memory banks.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_mean: Tensor
    candidates: Tensor
    classes: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        width: int,
        num_samples: int,
        tau: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.tau, self.momentum = tau, momentum
        self.project_student = nn.Linear(student_width, width)
        self.project_teacher = nn.Linear(teacher_width, width)
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, F.normalize(torch.randn(num_samples, width), dim=1))
        self.register_buffer("log_mean", torch.full((2,), math.nan))  # log c, per direction
        # Samples to draw from, and their classes; set in every grade.
        self.register_buffer("candidates", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("classes", torch.empty(0, dtype=torch.int64), persistent=False)

    def draw(self, count: int) -> Tensor:
        """Positions (M,) in ``candidates`` of a batch's negatives: ``count`` at random, or all."""
        n = len(self.candidates)
        if n <= count:
            return torch.arange(n, device=self.candidates.device)
        return torch.randint(n, (count,), device=self.candidates.device)

    def forward(
        self, student: Tensor, teacher: Tensor, labels: Tensor, index: Tensor, drawn: Tensor
    ) -> Tensor:
        """The loss of embeddings (B, student_width) and (B, teacher_width); updates the banks."""
        s = F.normalize(self.project_student(student), dim=1)
        t = F.normalize(self.project_teacher(teacher), dim=1)
        same = self.classes[drawn] == labels[:, None]
        where = (index, self.candidates[drawn], same)
        loss = self._nce(0, s, self.teacher_memory, *where)
        loss = loss + self._nce(1, t, self.student_memory, *where)
        with torch.no_grad():
            for memory, seen in ((self.student_memory, s), (self.teacher_memory, t)):
                moved = self.momentum * memory[index] + (1 - self.momentum) * seen
                memory[index] = F.normalize(moved, dim=1)
        return loss

    def _nce(
        self,
        direction: int,
        anchors: Tensor,
        memory: Tensor,
        index: Tensor,
        drawn: Tensor,
        same: Tensor,
    ) -> Tensor:
        positive = (anchors * recall(memory, index)).sum(1) / self.tau
        negative = anchors @ recall(memory, drawn).T / self.tau
        counts = (~same).sum(1)
        with torch.no_grad():
            total = torch.logsumexp(negative.masked_fill(same, -torch.inf).flatten(), 0)
            fresh = total - counts.sum().clamp_min(1).log()
            known = self.log_mean[direction]
            # A batch without negatives has no mean.
            known.copy_(torch.where(known.isnan() & fresh.isfinite(), fresh, known))
            noise = counts.clamp_min(1).log() + known.nan_to_num(0.0)  # log (M c)
        hit = F.softplus(noise - positive)
        miss = F.softplus(negative - noise[:, None]).masked_fill(same, 0).sum(1)
        return (hit + miss).mean()
