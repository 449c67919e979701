"""A batch: what it holds, and what is known of it before its images are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data.augment import Views
from edufast.utils.devices import to_device


class Batch(NamedTuple):
    """B samples, on the loader's device."""

    images: Tensor  # (B, 3, H, W) float32, normalised, channels_last
    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, positions in the split; not tuple.index
    # (B,) int64 on the CPU: index * Augment.views + number of the view; None: not countable.
    views: Tensor | None = None
    parts: tuple[int, ...] = ()  # number of samples of each of the loader's groups, in order


class Plan(NamedTuple):
    """A batch to be made."""

    samples: NDArray[np.int64]  # positions in the split
    labels: NDArray[np.int64]
    views: Views
    view_ids: Tensor | None  # Batch.views
    parts: tuple[int, ...]  # number of samples of each group

    def numbers(self, device: torch.device, *more: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Labels, samples and ``more``, (B,) int64 each, on ``device`` after a single transfer that
        is not waited for."""
        return to_device(
            torch.from_numpy(np.stack([self.labels, self.samples, *more])), device
        ).unbind()

    def batch(self, images: Tensor, labels: Tensor, index: Tensor) -> Batch:
        """With what is on the device by now."""
        return Batch(images, labels, index, self.view_ids, self.parts)


class BatchMaker(Protocol):
    """Makes what is planned."""

    def batches(self, plans: Iterator[Plan]) -> Iterator[Batch]:
        """One for each plan, in order. A newer call ends the older."""
