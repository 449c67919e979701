"""The supervision of a grade: which teachers run on which samples, and what is distilled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edufast.data import Batch
from edufast.data.class_map import ClassMap
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.models.feature_taps import FeatureTaps
from edufast.teachers.faculty import Faculty
from edufast.teachers.targets import SliceLogits, find_target
from edufast.utils.collectives import gather_columns, gather_group
from edufast.utils.errors import UserError
from edufast.utils.registry import call_user


class Supervision:
    """Supervision of one grade: ``supervision(batch, targets)`` returns the teacher outputs.

    On several ranks each runs the teachers on its own rows, and all get the outputs for the whole
    batch.

    With a routed target, batches must be grouped by owner (:attr:`groups`), so that each teacher
    runs on consecutive rows whose bounds the host knows: nothing is read from the device.

    Args:
        faculty: the teachers.
        teachers: positions in the faculty of this grade's teachers.
        target: see :func:`edufast.teachers.targets.registry.find_target`. Teachers of slices may
            know classes that are not taught yet: their logits for these are left out.
        class_map: of the classes taught so far.
        temperature: T of the loss, which a merged target may depend on.

    Attributes:
        groups: class ids by which to group the samples of every batch: those of each owner, then
            the rest.
        taps: on ``faculty.model(k)`` of each k in ``teachers``; empty unless :meth:`tap` was
            called.
        visits: number of images that each teacher of the faculty was run on by this process,
            without those whose logits were in the cache.

    Raises:
        ValueError: a teacher does not fit the target; the message names it.
    """

    def __init__(
        self,
        faculty: Faculty,
        teachers: Sequence[int],
        target: str | None,
        class_map: ClassMap,
        temperature: float,
    ) -> None:
        self._faculty, self._teachers = faculty, list(teachers)
        self._target = target or "none"
        self._merge = find_target(self._target)
        self._num_classes = len(class_map)
        self._temperature = temperature
        self.taps: list[FeatureTaps] = []
        self.groups: list[tuple[int, ...]] = [class_map.ids]
        self.visits = [0] * len(faculty)
        for k in self._teachers:
            if not 0 <= k < len(faculty):
                raise ValueError(f"teacher {k} is not in the faculty of {len(faculty)}")
        if self._target == "none":
            return
        known = [self._classes(k, class_map) for k in self._teachers]
        self._taught = [self._columns(k, ids) for k, ids in zip(teachers, known, strict=True)]
        if target == "full":
            return
        _check_disjoint(faculty, self._teachers)
        self._positions = [
            torch.tensor([class_map.position_of[c] for c in ids], device=faculty.device)
            for ids in known
        ]
        self._owner_of = torch.full((len(class_map),), -1, device=faculty.device)
        for position, own in enumerate(self._positions):
            self._owner_of[own] = position
        if target == "routed":
            names = [f"teacher {k} ({faculty[k].name})" for k in self._teachers]
            by_name = dict(zip(names, known, strict=True))
            self._slices = class_map.class_slices(by_name, faculty.device)
            rest = tuple(c for c in class_map.ids if not any(c in ids for ids in known))
            self.groups = [*known, rest] if rest else known

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
        """Teacher outputs for the whole batch, whose classes are at the positions ``targets`` (B,);
        for the target "full" also probabilities (B, C).

        None if the grade's target is "none".

        Raises:
            ValueError: the target is routed, but the batch is not grouped by owner.
        """
        if self._target == "none":
            return None
        whole, count, total = batch.whole, len(batch.labels), len(targets)
        rows = self._rows(whole.parts, total)
        logits, features = [], []
        for position, part in enumerate(self._rows(batch.parts, count)):
            own_logits, own_features = self._run(position, batch, part)
            group = rows[position]
            if part.start == part.stop and group.start < group.stop:
                self._faculty.stand_by(self._teachers[position], batch.images[:1])
            if self._target == "routed":
                # A routed loss never reads the rows of another owner.
                own_logits = _spread(own_logits, part, count)
            logits.append(own_logits)
            features.append(
                [gather_group(x, part, count, rows[position], total) for x in own_features]
            )
        logits = gather_columns(logits, total)
        if self._target == "routed":
            return TeacherOutputs(logits, self._slices, "routed", rows, features, whole.index)
        if self._target == "full":
            return TeacherOutputs(logits, None, "mean", rows, features, whole.index)
        merged = self._merged(logits, targets)
        return TeacherOutputs([merged], None, "mean", rows, features, whole.index)

    def _merged(self, logits: list[Tensor], targets: Tensor) -> Tensor:
        """(B, C) soft target of slice teachers, by a function that may be a user's."""
        assert callable(self._merge)
        what, expected = f"target {self._target!r}", (len(targets), self._num_classes)
        owners = self._owner_of[targets]
        given = SliceLogits(logits, self._positions, owners, targets, self._num_classes)
        merged = call_user(what, self._merge, given, self._temperature)
        if not isinstance(merged, Tensor) or merged.shape != expected:
            is_tensor = isinstance(merged, Tensor)
            found = tuple(merged.shape) if is_tensor else type(merged).__name__
            raise UserError(f"{what} returned {found}; expected a Tensor {expected}")
        return merged.detach().float()

    def _rows(self, parts: Sequence[int], count: int) -> list[slice]:
        """The rows that each teacher runs on, of ``count`` in groups of the sizes ``parts``."""
        if self._target != "routed":
            return [slice(0, count)] * len(self._teachers)
        if len(parts) != len(self.groups):
            raise ValueError(
                f"batch.parts is {parts}; expected the sizes of {len(self.groups)} groups, "
                "of a Loader(groups=supervision.groups)"
            )
        bounds = itertools.pairwise(itertools.accumulate(parts, initial=0))
        return [slice(*bound) for bound in itertools.islice(bounds, len(self._teachers))]

    def _run(self, position: int, batch: Batch, rows: slice) -> tuple[Tensor, list[Tensor]]:
        """A teacher's logits of the classes taught for some rows, and its features if they are
        tapped."""
        k, images, taught = self._teachers[position], batch.images[rows], self._taught[position]
        if not len(images):
            dtype = self._faculty.dtype or images.dtype
            shapes = self.taps[position].shapes if self.taps else []
            features = [images.new_empty(0, *shape, dtype=dtype) for shape in shapes]
            return images.new_empty(0, len(self._faculty[k].classes))[:, taught], features
        if not self.taps:
            logits, computed = self._faculty.answer(k, batch, rows)
            self.visits[k] += computed
            return logits[:, taught], []
        self.visits[k] += len(images)
        with self.taps[position]:
            logits = self._faculty.logits(k, images, eager=True)
        return logits[:, taught], self.taps[position].features

    def _classes(self, k: int, class_map: ClassMap) -> tuple[int, ...]:
        """Class ids taught that teacher ``k`` knows, in the order of the target's logits."""
        teacher = self._faculty[k]
        if self._target != "full":
            taught = tuple(c for c in teacher.classes if c in class_map.position_of)
            if not taught:
                raise ValueError(
                    f"teacher {k} ({teacher.name}) knows class {teacher.classes[0]}, but none of "
                    f"the {len(class_map)} classes taught; expected one that knows some of them"
                )
            return taught
        missing = [c for c in class_map.ids if c not in teacher.classes]
        if missing:
            raise ValueError(
                f"target 'full' needs teacher {k} ({teacher.name}), but it does not know class "
                f"{missing[0]}; expected a teacher of every class taught"
            )
        return class_map.ids

    def _columns(self, k: int, ids: Sequence[int]) -> slice | Tensor:
        """Where the logits of teacher ``k`` for some classes are."""
        column = {c: position for position, c in enumerate(self._faculty[k].classes)}
        columns = [column[c] for c in ids]
        if columns == list(range(len(columns))):
            return slice(0, len(columns))
        return torch.tensor(columns, device=self._faculty.device)


def _spread(logits: Tensor, rows: slice, batch: int) -> Tensor:
    """(batch, C) float32 with ``logits`` in ``rows`` and NaN elsewhere."""
    everything = logits.new_full((batch, logits.shape[1]), math.nan, dtype=torch.float32)
    everything[rows] = logits
    return everything


def _check_disjoint(faculty: Faculty, teachers: Sequence[int]) -> None:
    owner: dict[int, int] = {}
    for k in teachers:
        for c in faculty[k].classes:
            if c in owner:
                raise ValueError(
                    f"class {c} belongs to teacher {owner[c]} and to teacher {k}; expected one "
                    "owner for each class, unless the target is 'full'"
                )
            owner[c] = k
