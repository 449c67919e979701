"""Measuring what a student knows, slice by slice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edufast.data import Batch


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, in [0, 1].

    Attributes:
        overall: over all samples.
        slices: over the samples of each slice, the answer being free among all classes.
        masked: likewise, with the answer restricted to the sample's own slice. The distance to
            ``slices`` is what a student loses between slices rather than within them.
    """

    overall: float
    slices: tuple[float, ...]
    masked: tuple[float, ...]


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], rank: Tensor, slice_sizes: Sequence[int]
) -> Accuracy:
    """Accuracy of ``model`` in eval mode; its mode is restored.

    Args:
        model: maps (B, 3, H, W) to logits (B, C) in curriculum order.
        batches: of samples whose class is taught.
        rank: (number of classes,) int64 on the batches' device: class id to position.
        slice_sizes: consecutive slices of the positions; they add up to C.
    """
    bounds = torch.tensor([0, *slice_sizes], device=rank.device).cumsum(0)
    count, free, masked = (
        torch.zeros(len(slice_sizes), dtype=torch.int64, device=rank.device) for _ in range(3)
    )
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            logits, labels = model(batch.images), rank[batch.labels]
            # Slice of a position: how many slices begin at or before it, less one.
            own = torch.bucketize(labels, bounds, right=True) - 1
            slice_of_class = (
                torch.bucketize(
                    torch.arange(logits.shape[1], device=rank.device), bounds, right=True
                )
                - 1
            )
            others = slice_of_class[None, :] != own[:, None]
            count += own.bincount(minlength=len(slice_sizes))
            free += own[logits.argmax(1) == labels].bincount(minlength=len(slice_sizes))
            restricted = logits.masked_fill(others, float("-inf")).argmax(1)
            masked += own[restricted == labels].bincount(minlength=len(slice_sizes))
    finally:
        model.train(was_training)
    total = count.clamp_min(1)
    return Accuracy(
        overall=free.sum().item() / count.sum().item(),
        slices=tuple((free.double() / total).tolist()),
        masked=tuple((masked.double() / total).tolist()),
    )
