"""What algorithms that compare features have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edufast.distill.algorithm import Algorithm, GradeContext
from edufast.distill.kd import KD
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.utils.errors import UserError


class FeatureAlgorithm(Algorithm):
    """The loss of another algorithm on the logits, plus one that compares features.

    With several teachers the feature loss is the mean over them, weighted by the number of rows
    each has looked at: with routed samples each teacher is compared on its own rows. No gradient
    flows into teachers; adapters learn with the student.

    Args:
        logits: the algorithm for the logits, cross-entropy included; None: ``KD()``. In a recipe a
            name, or a name with options; ``{name: kd, alpha: 1}`` is cross-entropy alone.

    Attributes:
        adapters: by position in the faculty, of those who teach in this grade. They survive growth
            as long as their shapes fit.
    """

    reads_features: ClassVar[bool] = True

    def __init__(self, logits: Algorithm | None = None) -> None:
        logits = KD() if logits is None else logits
        if not isinstance(logits, Algorithm) or logits.reads_features:
            found = type(logits).__name__ if isinstance(logits, nn.Module) else repr(logits)
            raise UserError(f"logits is {found}; expected an algorithm that reads logits only")
        super().__init__(logits.temperature)
        self.logits = logits
        self.adapters = nn.ModuleDict()

    def begin_grade(self, context: GradeContext) -> None:
        self.logits.begin_grade(context)
        before, self.adapters = self.adapters, nn.ModuleDict()
        for position, teacher in enumerate(context.teachers):
            name, adapter = str(teacher), self.create_adapter(context, position)
            if name in before and _shapes(before[name]) == _shapes(adapter):
                adapter = before[name]
            self.adapters[name] = adapter.to(context.device)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.logits.begin_epoch(epoch, epochs)

    def logit_loss(self, logits: Tensor, outputs: TeacherOutputs, labels: Tensor) -> Tensor:
        return self.logits.logit_loss(logits, outputs, labels)

    def feature_loss(
        self, features: list[Tensor], outputs: TeacherOutputs, labels: Tensor
    ) -> Tensor:
        if outputs.index is None or len(outputs.features) != len(self.adapters):
            raise ValueError(
                f"outputs has the features of {len(outputs.features)} teachers; expected those "
                f"of {len(self.adapters)}, and the samples' index"
            )
        counts = [part.stop - part.start for part in outputs.rows]
        loss = features[-1].new_zeros((), dtype=torch.float32)
        for position, (part, count) in enumerate(zip(outputs.rows, counts, strict=True)):
            if count:
                own = [x[part].float() for x in features]
                theirs = [x.detach().float() for x in outputs.features[position]]
                where = (labels[part], outputs.index[part])
                loss = loss + count / sum(counts) * self.compare(position, own, theirs, *where)
        return loss

    def create_adapter(self, context: GradeContext, position: int) -> nn.Module:
        """What the features of teacher number ``position`` of the grade need to be compared."""
        raise NotImplementedError

    def compare(
        self,
        position: int,
        features: list[Tensor],
        answers: list[Tensor],
        labels: Tensor,
        index: Tensor,
    ) -> Tensor:
        """The loss, a mean over the rows, of features (n, ...) of the student beside those of
        teacher number ``position``, both float32, for samples at ``index`` (n,)."""
        raise NotImplementedError


def matched(
    student: Sequence[tuple[int, ...]], teacher: Sequence[tuple[int, ...]]
) -> list[tuple[int, int]]:
    """Which of the student's maps is compared with which of the teacher's, shallow to deep.

    The student's last map of each size, with the teacher's of the most similar number of places
    (the larger one of two). The last shape on either side is the embedding's.

    Raises:
        ValueError: one of them has no maps.
    """
    if len(student) < 2 or len(teacher) < 2:
        who = "the student" if len(student) < 2 else "a teacher"
        raise ValueError(f"{who} has no feature maps; expected a convolutional or token model")
    theirs = [math.prod(map_shape(shape)[1:]) for shape in teacher[:-1]]
    last = {math.prod(map_shape(shape)[1:]): i for i, shape in enumerate(student[:-1])}
    return [
        (i, min(range(len(theirs)), key=lambda j: (abs(math.log(theirs[j] / places)), j)))
        for places, i in sorted(last.items(), key=lambda item: item[1])
    ]


def as_map(x: Tensor) -> Tensor:
    """Maps (B, C, H, W), tokens (B, N, C) or vectors (B, C) as maps.

    Tokens are taken for a square image behind up to two others (class, distillation), which are
    left out, or else for a column.
    """
    if x.dim() == 4:
        return x
    if x.dim() == 2:
        return x[:, :, None, None]
    side = math.isqrt(x.shape[1])
    others = x.shape[1] - side**2
    if others > 2:
        return x.mT.unsqueeze(-1)
    return x[:, others:].mT.unflatten(2, (side, side))


def map_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) of :func:`as_map`, without the batch."""
    return tuple(as_map(torch.empty(1, *shape, device="meta")).shape[1:])


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, C, H, W), the larger one averaged down to the places of the smaller."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = (x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))
    return a, b


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
