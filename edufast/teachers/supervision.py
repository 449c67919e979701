"""The supervision of a grade: which teachers run on which samples, and what is distilled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edufast.data import Batch
from edufast.data.class_map import ClassMap
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.models.feature_taps import FeatureTaps
from edufast.ops import ClassSlices
from edufast.teachers.faculty import Faculty

Target: TypeAlias = Literal["routed", "gated", "full", "none"]


class Supervision:
    """Supervision of one grade: ``supervision(batch, targets)`` returns the teacher outputs.

    With a routed target, batches must be grouped by owner (:attr:`groups`), so that each teacher
    runs on consecutive rows whose bounds the host knows: nothing is read from the device.

    Args:
        faculty: the teachers.
        teachers: positions in the faculty of this grade's teachers.
        target: see :class:`edufast.Grade`.
        class_map: of the classes taught so far.
        temperature: T of the loss, which a gated target depends on.

    Attributes:
        groups: class ids by which to group the samples of every batch: those of each owner, then
            the rest.
        taps: on ``faculty.model(k)`` of each k in ``teachers``; empty unless :meth:`tap` was
            called.
        visits: number of images that each teacher of the faculty was run on, without those whose
            logits were in the cache.

    Raises:
        ValueError: a teacher does not fit the target; the message names it.
    """

    def __init__(
        self,
        faculty: Faculty,
        teachers: Sequence[int],
        target: Target | None,
        class_map: ClassMap,
        temperature: float,
    ) -> None:
        self._faculty, self._teachers, self._target = faculty, list(teachers), target
        self._num_classes = len(class_map)
        self._temperature = temperature
        self.taps: list[FeatureTaps] = []
        self.groups: list[tuple[int, ...]] = [class_map.ids]
        self.visits = [0] * len(faculty)
        for k in self._teachers:
            if not 0 <= k < len(faculty):
                raise ValueError(f"teacher {k} is not in the faculty of {len(faculty)}")
        if target == "full":
            self._columns = [self._taught_columns(k, class_map.ids) for k in self._teachers]
        elif target != "none":
            known = {f"teacher {k} ({faculty[k].name})": faculty[k].classes for k in teachers}
            self._slices = class_map.class_slices(known, faculty.device)
            _check_disjoint(faculty, self._teachers)
        if target == "routed":
            owned = [tuple(faculty[k].classes) for k in self._teachers]
            rest = tuple(c for c in class_map.ids if not any(c in classes for classes in owned))
            self.groups = [*owned, rest] if rest else owned

    def tap(self, input_size: Sequence[int]) -> list[list[tuple[int, ...]]]:
        """Record the teachers' features from now on; returns their shapes, by teacher."""
        faculty = self._faculty
        self.taps = [
            FeatureTaps(faculty.model(k), faculty.input_size(k, input_size)) for k in self._teachers
        ]
        return [taps.shapes for taps in self.taps]

    def owners(self, class_ids: Tensor) -> Tensor | None:
        """(N,) position in ``teachers`` of the one that each sample is routed to, or -1.

        None: every teacher runs on every sample.
        """
        if self._target != "routed":
            return None
        owners = torch.full_like(class_ids, -1)
        for position, k in enumerate(self._teachers):
            classes = torch.tensor(self._faculty[k].classes, device=class_ids.device)
            owners[torch.isin(class_ids, classes)] = position
        return owners

    def __call__(self, batch: Batch, targets: Tensor) -> TeacherOutputs | None:
        """Teacher outputs for a batch whose classes are at the positions ``targets`` (B,).

        None if the grade's target is "none".

        Raises:
            ValueError: the target is routed, but the batch is not grouped by owner.
        """
        if self._target == "none":
            return None
        rows = self._rows(batch)
        logits, features = [], []
        for position, part in enumerate(rows):
            own_logits, own_features = self._run(position, batch, part)
            logits.append(own_logits)
            features.append(own_features)
        if self._target == "routed":
            # A routed loss never reads the rows of another owner.
            spread = [_spread(z, part, len(targets)) for z, part in zip(logits, rows, strict=True)]
            return TeacherOutputs(spread, self._slices, "routed", rows, features, batch.index)
        if self._target == "full":
            taught = [z[:, columns] for z, columns in zip(logits, self._columns, strict=True)]
            return TeacherOutputs(taught, None, "mean", rows, features, batch.index)
        target = gated_logits(
            logits,
            self._slices,
            targets,
            num_classes=self._num_classes,
            temperature=self._temperature,
        )
        return TeacherOutputs([target], None, "mean", rows, features, batch.index)

    def _rows(self, batch: Batch) -> list[slice]:
        """The rows that each teacher runs on."""
        if self._target != "routed":
            return [slice(0, len(batch.labels))] * len(self._teachers)
        if len(batch.parts) != len(self.groups):
            raise ValueError(
                f"batch.parts is {batch.parts}; expected the sizes of {len(self.groups)} groups, "
                "of a Loader(groups=supervision.groups)"
            )
        bounds = itertools.pairwise(itertools.accumulate(batch.parts, initial=0))
        return [slice(*bound) for bound in itertools.islice(bounds, len(self._teachers))]

    def _run(self, position: int, batch: Batch, rows: slice) -> tuple[Tensor, list[Tensor]]:
        """A teacher's logits for some rows, and its features if they are tapped."""
        k, images = self._teachers[position], batch.images[rows]
        if not len(images):
            return images.new_empty(0, len(self._faculty[k].classes)), []
        if not self.taps:
            logits, computed = self._faculty.answer(k, batch, rows)
            self.visits[k] += computed
            return logits, []
        self.visits[k] += len(images)
        with self.taps[position]:
            logits = self._faculty.logits(k, images, eager=True)
        return logits, self.taps[position].features

    def _taught_columns(self, k: int, ids: Sequence[int]) -> slice | Tensor:
        teacher = self._faculty[k]
        column = {c: position for position, c in enumerate(teacher.classes)}
        missing = [c for c in ids if c not in column]
        if missing:
            raise ValueError(
                f"target 'full' needs teacher {k} ({teacher.name}), but it does not know class "
                f"{missing[0]}; expected a teacher of every class taught"
            )
        columns = [column[c] for c in ids]
        if columns == list(range(len(columns))):
            return slice(0, len(columns))
        return torch.tensor(columns, device=self._faculty.device)


def _spread(logits: Tensor, rows: slice, batch: int) -> Tensor:
    """(batch, C) float32 with ``logits`` in ``rows`` and NaN elsewhere."""
    everything = logits.new_full((batch, logits.shape[1]), math.nan, dtype=torch.float32)
    everything[rows] = logits
    return everything


def gated_logits(
    logits: Sequence[Tensor],
    slices: ClassSlices,
    targets: Tensor,
    *,
    num_classes: int,
    temperature: float,
    leak: float = 0.1,
) -> Tensor:
    """Combine the logits of slice teachers into one soft target over all classes taught.

    A slice teacher knows nothing about other slices. Here the sample's class decides between the
    slices: the softened distribution of its owner gets the mass ``1 - leak``, and the others share
    ``leak`` equally. So the student learns the slice of each sample as well as the similarities
    that each teacher sees between its own classes.

    Args:
        logits: (B, C_k) of each teacher.
        slices: their classes; each class is in at most one slice.
        targets: (B,) position of each sample's class.
        num_classes: C, the number of classes taught.
        temperature: T of the loss; the target is softmax(result / T).
        leak: mass of the slices that do not contain the sample's class, in [0, 1).

    Returns:
        Logits (B, C) float32; -inf for classes in no slice.

    Raises:
        ValueError: ``leak`` is out of range.
    """
    if not 0 <= leak < 1:
        raise ValueError(f"leak is {leak}; expected a number in [0, 1)")
    count = len(logits)
    owned = torch.stack([slices.local_label(targets, k)[1] for k in range(count)], 1).float()
    shared = torch.where(owned.any(1, keepdim=True), leak, 1.0) / max(1, count - 1)
    gates = torch.where(owned > 0, 1 - leak, shared) if count > 1 else torch.ones_like(owned)
    target = logits[0].new_full((len(targets), num_classes), -math.inf, dtype=torch.float32)
    for k, own in enumerate(logits):
        log_p = torch.log_softmax(own.float() / temperature, 1) + gates[:, k, None].log()
        target.index_copy_(1, _columns(slices, k, targets.device), log_p * temperature)
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
