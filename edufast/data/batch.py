"""A batch, and what is known of it before its images are made."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data.augment import Views
from edufast.utils.devices import to_device


class GlobalBatch(NamedTuple):
    """What every rank of a distributed training knows of a batch: its images are spread over them,
    see :func:`edufast.utils.ranks.own_rows`."""

    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, positions in the split
    parts: tuple[int, ...]  # number of samples of each of the loader's groups, in order


class Batch(NamedTuple):
    """B samples, on the loader's device; on one rank of several, those of its rows."""

    images: Tensor  # (B, 3, H, W) float32, normalised, channels_last
    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, positions in the split; not tuple.index
    # (B,) int64 on the CPU: index * Augment.views + number of the view; None: not countable.
    views: Tensor | None = None
    parts: tuple[int, ...] = ()  # number of samples of each of the loader's groups, in order
    spread: GlobalBatch | None = None  # whose rows these are; None: there are no others

    @property
    def whole(self) -> GlobalBatch:
        """The global batch."""
        return self.spread or GlobalBatch(self.labels, self.index, self.parts)


class Plan(NamedTuple):
    """A batch to be made, or the rows ``own`` of one."""

    samples: NDArray[np.int64]  # positions in the split, of the whole batch
    labels: NDArray[np.int64]  # of the whole batch
    views: Views  # of its own rows
    view_ids: Tensor | None  # Batch.views
    parts: tuple[int, ...]  # number of samples of each group, in the whole batch
    own: slice = slice(None)

    @property
    def own_samples(self) -> NDArray[np.int64]:
        """Positions in the split of its own rows."""
        return self.samples[self.own]

    def numbers(self, device: torch.device, *more: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Labels and samples of the whole batch, and ``more`` of its own rows, int64 each, on
        ``device`` after a single transfer that is not waited for."""
        rows = [self.labels, self.samples, *more]
        together = to_device(torch.from_numpy(np.concatenate(rows)), device)
        return together.split([len(row) for row in rows])

    def batch(self, images: Tensor, labels: Tensor, index: Tensor) -> Batch:
        """The batch, from tensors on the device: images of its own rows, the rest of all."""
        rows = range(len(self.samples))[self.own]
        if len(rows) == len(labels):
            return Batch(images, labels, index, self.view_ids, self.parts)
        bounds = itertools.pairwise(itertools.accumulate(self.parts, initial=0))
        parts = tuple(bisect_left(rows, stop) - bisect_left(rows, start) for start, stop in bounds)
        whole = GlobalBatch(labels, index, self.parts)
        return Batch(images, labels[self.own], index[self.own], self.view_ids, parts, whole)


class BatchMaker(Protocol):
    """Makes the batches that are planned."""

    def batches(self, plans: Iterator[Plan]) -> Iterator[Batch]:
        """One for each plan, in order. A newer call ends the older."""
