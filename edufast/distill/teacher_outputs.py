"""The teachers' outputs for a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from edufast.ops import ClassSlices


class TeacherOutputs(NamedTuple):
    """The teachers' outputs for a batch of B samples.

    Attributes:
        logits: K tensors (B, C_k); one where slice teachers are merged into one target, with -inf
            for classes that none of them knows. In a routed grade, rows that belong to another
            teacher are NaN.
        slices: which of the student's classes each tensor is over; None: all classes taught.
        weighting: "routed" or "mean".
        rows: the rows of the batch that each of the grade's teachers has seen.
        features: of each of these teachers for its rows; empty if it has none, or if the
            algorithm does not read features.
        index: (B,) int64, positions of the samples in the training split.
    """

    logits: list[Tensor]
    slices: ClassSlices | None
    weighting: str
    rows: list[slice]
    features: list[list[Tensor]]
    index: Tensor | None  # type: ignore[assignment]  # a method of tuple
