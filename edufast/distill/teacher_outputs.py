"""What the teachers say about a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from edufast.ops import ClassSlices


class TeacherOutputs(NamedTuple):
    """What the teachers say about a batch: arguments of a distillation loss."""

    logits: list[Tensor]  # K tensors (B, C_k); where routed, rows no teacher's own are NaN
    slices: ClassSlices | None  # None: each is over all classes taught
    weighting: str  # "routed" or "mean"
    rows: list[slice]  # of the batch, that each teacher who teaches has looked at
    features: list[list[Tensor]]  # of each teacher, about its rows, as tapped; no rows: []
    index: Tensor | None  # type: ignore[assignment]  # (B,) int64, positions in the split
