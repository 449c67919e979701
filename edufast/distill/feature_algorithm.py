"""The base class of algorithms that compare features."""

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
    """The loss of another algorithm on the logits, plus a loss on features.

    With several teachers the feature loss is their mean, weighted by the number of rows that each
    has seen: if samples are routed, each teacher is compared on its own rows. No gradient flows
    into teachers; adapters learn with the student.

    Args:
        logits: the algorithm for the logits, including cross-entropy; None: ``KD()``. In a recipe,
            a name or a name with options; ``{name: kd, alpha: 1}`` is cross-entropy alone.

    Attributes:
        adapters: of the grade's teachers, by their position in the faculty. They are kept while
            the student grows, as long as their shapes match.
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
                student = [x[part].float() for x in features]
                teacher = [x.detach().float() for x in outputs.features[position]]
                samples = (labels[part], outputs.index[part])
                part_loss = self.compare(position, student, teacher, *samples)
                loss = loss + count / sum(counts) * part_loss
        return loss

    def create_adapter(self, context: GradeContext, position: int) -> nn.Module:
        """The module that makes features of student and teacher comparable.

        ``position`` is the teacher's among those of the grade.
        """
        raise NotImplementedError

    def compare(
        self,
        position: int,
        features: list[Tensor],
        teacher_features: list[Tensor],
        labels: Tensor,
        index: Tensor,
    ) -> Tensor:
        """The loss, a mean over n rows.

        Args:
            position: the teacher's, among those of the grade.
            features: (n, ...) float32 of the student.
            teacher_features: (n, ...) float32 of the teacher.
            labels: (n,).
            index: (n,) positions of the samples in the training split.
        """
        raise NotImplementedError


def matched(
    student: Sequence[tuple[int, ...]], teacher: Sequence[tuple[int, ...]]
) -> list[tuple[int, int]]:
    """Pairs of positions: the student's maps, from shallow to deep, and the teacher's they match.

    The student's last map of each size is paired with the teacher's map that has the most similar
    number of locations (the larger one of two). The last shape on either side is the embedding's.

    Raises:
        ValueError: one of them has no maps.
    """
    if len(student) < 2 or len(teacher) < 2:
        who = "the student" if len(student) < 2 else "a teacher"
        raise ValueError(f"{who} has no feature maps; expected a convolutional or token model")
    sizes = [math.prod(map_shape(shape)[1:]) for shape in teacher[:-1]]
    last = {math.prod(map_shape(shape)[1:]): i for i, shape in enumerate(student[:-1])}
    return [
        (i, min(range(len(sizes)), key=lambda j: (abs(math.log(sizes[j] / size)), j)))
        for size, i in sorted(last.items(), key=lambda item: item[1])
    ]


def as_map(x: Tensor) -> Tensor:
    """Maps (B, C, H, W), tokens (B, N, C) or vectors (B, C) as maps.

    Tokens become a square map without up to two leading ones (class, distillation) or, if their
    number does not allow that, a column.
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
    """Two maps (B, C, H, W), the larger one average-pooled to the size of the smaller one."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = (x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))
    return a, b


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
