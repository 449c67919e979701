"""The teachers: frozen classifiers that each know a slice of the classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edufast.curriculum import Target
from edufast.flops import forward_flops
from edufast.merging import folded_if_traceable
from edufast.ops import ClassSlices


@dataclass
class Teacher:
    """A classifier and what its logits stand for.

    Attributes:
        model: maps images (B, 3, H, W) to logits (B, len(classes)).
        classes: class id of each logit.
        name: for reports.
    """

    model: nn.Module
    classes: Sequence[int]
    name: str = "teacher"

    def __post_init__(self) -> None:
        self.classes = tuple(self.classes)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(
                f"classes of {self.name} are {self.classes}; expected at least one, each once"
            )


class Faculty(Sequence[Teacher]):
    """Teachers in a fixed order, frozen, in eval mode.

    What runs is a copy with batch norm folded into the layers before it; a model that torch.fx
    cannot trace runs itself, and wants no gradients from here on.

    Args:
        teachers: any number of them, also none.
        device: where they run.
    """

    def __init__(self, teachers: Sequence[Teacher], device: torch.device | str = "cpu") -> None:
        self._teachers = tuple(teachers)
        self.device = torch.device(device)
        self._models = [
            folded_if_traceable(teacher.model)
            .requires_grad_(False)
            .to(self.device)
            .to(memory_format=torch.channels_last)
            for teacher in self._teachers
        ]

    def __len__(self) -> int:
        return len(self._teachers)

    def __getitem__(self, index: int) -> Teacher:  # type: ignore[override]
        return self._teachers[index]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    def flops(self, teacher: int, input_size: Sequence[int]) -> int:
        """FLOPs of one forward pass of one image of shape ``input_size`` (2 x multiply-adds)."""
        return forward_flops(self._models[teacher], input_size)

    @torch.no_grad()
    def all_logits(self, images: Tensor, teachers: Sequence[int]) -> list[Tensor]:
        """Logits (B, C_k) of every named teacher for every image."""
        return [self._models[k](images) for k in teachers]

    @torch.no_grad()
    def routed_logits(
        self, images: Tensor, owners: Tensor, teachers: Sequence[int]
    ) -> list[Tensor]:
        """Like :meth:`all_logits`, but each image visits only the teacher that owns its label.

        Args:
            images: (B, 3, H, W).
            owners: (B,) int64, position in ``teachers`` of each image's owner; -1: nobody.

        Returns:
            (B, C_k) a teacher; rows it does not own are NaN, which a routed loss never reads.
        """
        logits = []
        for position, k in enumerate(teachers):
            rows = (owners == position).nonzero()[:, 0]
            answer = images.new_full((len(images), len(self[k].classes)), math.nan)
            if len(rows):
                answer[rows] = self._models[k](images[rows]).to(answer.dtype)
            logits.append(answer)
        return logits

    def slices(
        self, teachers: Sequence[int], class_order: Sequence[int], *, known: int | None = None
    ) -> ClassSlices:
        """Where the logits of ``teachers`` stand among student logits in ``class_order``.

        Raises:
            ValueError: a teacher knows a class the student does not.
        """
        rank = {c: position for position, c in enumerate(class_order)}
        positions: list[list[int] | tuple[int, int]] = []
        for k in teachers:
            unknown = [c for c in self[k].classes if c not in rank]
            if unknown:
                raise ValueError(
                    f"teacher {k} ({self[k].name}) knows class {unknown[0]}, which is not among "
                    f"the {len(rank)} classes taught"
                )
            columns = [rank[c] for c in self[k].classes]
            first, last = columns[0], columns[-1] + 1
            contiguous = columns == list(range(first, last))
            positions.append((first, last) if contiguous else columns)
        return ClassSlices.of(positions, len(rank), self.device)


def gated_logits(
    logits: Sequence[Tensor],
    slices: ClassSlices,
    labels: Tensor,
    *,
    num_classes: int,
    temperature: float,
    leak: float = 0.1,
) -> Tensor:
    """Assemble slice teachers into one soft target over all classes taught.

    A slice teacher says nothing about other slices. Here the label chooses the slice: its owner's
    softened distribution gets the mass ``1 - leak``, the others share ``leak`` equally, so that the
    student sees both which slice it is and what each teacher finds alike within its own.

    Args:
        logits: (B, C_k) a teacher.
        slices: their classes; each class in at most one slice.
        labels: (B,) positions in curriculum order.
        num_classes: C, the classes taught.
        temperature: T at which the target will be softened; softmax(result / T) is the target.
        leak: mass for the slices that do not hold the label, in [0, 1).

    Returns:
        (B, C) float32 logits; -inf for classes in no slice.
    """
    if not 0 <= leak < 1:
        raise ValueError(f"leak is {leak}; expected a number in [0, 1)")
    count = len(logits)
    owned = torch.stack([slices.local_label(labels, k)[1] for k in range(count)], 1).float()
    shared = torch.where(owned.any(1, keepdim=True), leak, 1.0) / max(1, count - 1)
    gates = torch.where(owned > 0, 1 - leak, shared) if count > 1 else torch.ones_like(owned)
    target = logits[0].new_full((len(labels), num_classes), -math.inf, dtype=torch.float32)
    for k, answer in enumerate(logits):
        log_p = torch.log_softmax(answer.float() / temperature, 1) + gates[:, k, None].log()
        target.index_copy_(1, _columns(slices, k, labels.device), log_p * temperature)
    return target


def _columns(slices: ClassSlices, k: int, device: torch.device) -> Tensor:
    if slices.columns and slices.columns[k].numel():
        return slices.columns[k]
    return torch.arange(slices.starts[k], slices.starts[k] + slices.sizes[k], device=device)


class Teaching(NamedTuple):
    """What the teachers say about a batch: arguments of a distillation loss."""

    logits: list[Tensor]  # K tensors (B, C_k)
    slices: ClassSlices | None  # None: each is over all classes taught
    weighting: str


class Lesson:
    """The faculty's part in one grade: ``lesson(images, labels)`` answers a batch.

    Args:
        faculty: the teachers.
        teachers: positions of those who teach in this grade.
        target: see :class:`edufast.Grade`.
        class_order: class ids taught so far, in curriculum order.
        temperature: T of the loss that follows, needed to assemble a gated target.

    Raises:
        ValueError: a teacher does not fit the target; the message names it.
    """

    def __init__(
        self,
        faculty: Faculty,
        teachers: Sequence[int],
        target: Target | None,
        class_order: Sequence[int],
        temperature: float,
    ) -> None:
        self._faculty, self._teachers, self._target = faculty, list(teachers), target
        self._num_classes = len(class_order)
        self._temperature = temperature
        self.visits = [0] * len(faculty)  # images each teacher has looked at
        for k in self._teachers:
            if not 0 <= k < len(faculty):
                raise ValueError(f"teacher {k} is not in the faculty of {len(faculty)}")
        if target == "full":
            self._columns = [self._taught_columns(k, class_order) for k in self._teachers]
        elif target != "none":
            self._slices = faculty.slices(self._teachers, class_order)
            _check_disjoint(faculty, self._teachers)

    def __call__(self, images: Tensor, labels: Tensor) -> Teaching | None:
        """Answer images (B, 3, H, W) with labels (B,), positions in curriculum order.

        None when the target is "none": nobody teaches.
        """
        if self._target == "none":
            return None
        if self._target == "routed":
            owners = self._owners(labels)
            for position, k in enumerate(self._teachers):
                self.visits[k] += int((owners == position).sum())
            logits = self._faculty.routed_logits(images, owners, self._teachers)
            return Teaching(logits, self._slices, "routed")
        for k in self._teachers:
            self.visits[k] += len(images)
        logits = self._faculty.all_logits(images, self._teachers)
        if self._target == "full":
            taught = [answer[:, c] for answer, c in zip(logits, self._columns, strict=True)]
            return Teaching(taught, None, "mean")
        target = gated_logits(
            logits,
            self._slices,
            labels,
            num_classes=self._num_classes,
            temperature=self._temperature,
        )
        return Teaching([target], None, "mean")

    def _owners(self, labels: Tensor) -> Tensor:
        owners = torch.full_like(labels, -1)
        for position in range(len(self._teachers)):
            owners[self._slices.local_label(labels, position)[1]] = position
        return owners

    def _taught_columns(self, k: int, class_order: Sequence[int]) -> slice | Tensor:
        teacher = self._faculty[k]
        column = {c: position for position, c in enumerate(teacher.classes)}
        missing = [c for c in class_order if c not in column]
        if missing:
            raise ValueError(
                f"target 'full' asks teacher {k} ({teacher.name}), but it does not know class "
                f"{missing[0]}; expected a teacher of every class taught"
            )
        columns = [column[c] for c in class_order]
        if columns == list(range(len(columns))):
            return slice(0, len(columns))
        return torch.tensor(columns, device=self._faculty.device)


def _check_disjoint(faculty: Faculty, teachers: Sequence[int]) -> None:
    owner: dict[int, int] = {}
    for k in teachers:
        for c in faculty[k].classes:
            if c in owner:
                raise ValueError(
                    f"class {c} belongs to teacher {owner[c]} and to teacher {k}; expected one "
                    "owner for each class in a routed or gated grade"
                )
            owner[c] = k
