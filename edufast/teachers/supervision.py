"""What the teachers say about the batches of a grade."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edufast.data import Batch
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.models.feature_taps import FeatureTaps
from edufast.ops import ClassSlices
from edufast.teachers.cached_faculty import LogitCache
from edufast.teachers.faculty import Faculty

Target: TypeAlias = Literal["routed", "gated", "full", "none"]


class Supervision:
    """The faculty's part in one grade: ``supervision(batch, labels)`` answers a batch.

    Where each sample visits only its owner, batches come grouped by owner (:attr:`groups`), so that
    a teacher looks at a run of rows whose bounds the host knows: nothing is read from the device.

    Args:
        faculty: the teachers.
        teachers: positions of those who teach in this grade.
        target: see :class:`edufast.Grade`.
        class_order: class ids taught so far, in curriculum order.
        temperature: T of the loss that follows, needed to assemble a gated target.
        cache: of the faculty's logits; who finds them there asks no teacher.

    Attributes:
        groups: class lists by which to group the samples of every batch: those of each teacher
            that owns some, then the rest.
        taps: on ``faculty.model(k)`` of each k in ``teachers``, for losses that read features;
            empty where none does.
        visits: images each teacher of the faculty has looked at, not those found in the cache.

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
        *,
        taps: Sequence[FeatureTaps] = (),
        cache: LogitCache | None = None,
    ) -> None:
        self._faculty, self._teachers, self._target = faculty, list(teachers), target
        self._num_classes = len(class_order)
        self._temperature = temperature
        self._cache = cache
        self.taps = taps
        self.groups: list[tuple[int, ...]] = [tuple(class_order)]
        self.visits = [0] * len(faculty)
        for k in self._teachers:
            if not 0 <= k < len(faculty):
                raise ValueError(f"teacher {k} is not in the faculty of {len(faculty)}")
        if target == "full":
            self._columns = [self._taught_columns(k, class_order) for k in self._teachers]
        elif target != "none":
            self._slices = faculty.slices(self._teachers, class_order)
            _check_disjoint(faculty, self._teachers)
        if target == "routed":
            owned = [tuple(faculty[k].classes) for k in self._teachers]
            rest = tuple(c for c in class_order if not any(c in classes for classes in owned))
            self.groups = [*owned, rest] if rest else owned

    def __call__(self, batch: Batch, labels: Tensor) -> TeacherOutputs | None:
        """Answer a batch with labels (B,), positions in curriculum order.

        None when the target is "none": nobody teaches.

        Raises:
            ValueError: each sample is to visit its owner, but the batch is not grouped that way.
        """
        if self._target == "none":
            return None
        rows = self._rows(batch)
        logits, features = [], []
        for position, part in enumerate(rows):
            answer, tapped = self._ask(position, batch, part)
            logits.append(answer)
            features.append(tapped)
        if self._target == "routed":
            # A routed loss never reads the rows of another owner.
            spread = [_spread(z, part, len(labels)) for z, part in zip(logits, rows, strict=True)]
            return TeacherOutputs(spread, self._slices, "routed", rows, features, batch.index)
        if self._target == "full":
            taught = [answer[:, c] for answer, c in zip(logits, self._columns, strict=True)]
            return TeacherOutputs(taught, None, "mean", rows, features, batch.index)
        target = gated_logits(
            logits,
            self._slices,
            labels,
            num_classes=self._num_classes,
            temperature=self._temperature,
        )
        return TeacherOutputs([target], None, "mean", rows, features, batch.index)

    def _rows(self, batch: Batch) -> list[slice]:
        """The rows each teacher looks at."""
        if self._target != "routed":
            return [slice(0, len(batch.labels))] * len(self._teachers)
        if len(batch.parts) != len(self.groups):
            raise ValueError(
                f"batch.parts is {batch.parts}; expected the sizes of {len(self.groups)} groups, "
                "of a Loader(groups=supervision.groups)"
            )
        bounds = itertools.pairwise(itertools.accumulate(batch.parts, initial=0))
        return [slice(*bound) for bound in itertools.islice(bounds, len(self._teachers))]

    def _ask(self, position: int, batch: Batch, rows: slice) -> tuple[Tensor, list[Tensor]]:
        """A teacher's logits for some rows, and its features where they are tapped."""
        k, images = self._teachers[position], batch.images[rows]
        if not len(images):
            return images.new_empty(0, len(self._faculty[k].classes)), []
        if self._cache is not None and not self.taps:
            logits, asked = self._cache.logits(k, batch, rows)
            self.visits[k] += asked
            return logits, []
        self.visits[k] += len(images)
        if not self.taps:
            return self._faculty.logits(k, images), []
        with self.taps[position]:
            logits = self._faculty.logits(k, images, eager=True)
        return logits, self.taps[position].features

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


def _spread(logits: Tensor, rows: slice, batch: int) -> Tensor:
    """(batch, C) float32 with ``logits`` at ``rows``, and NaN elsewhere."""
    everything = logits.new_full((batch, logits.shape[1]), math.nan, dtype=torch.float32)
    everything[rows] = logits
    return everything


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
