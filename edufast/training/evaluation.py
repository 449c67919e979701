"""Measuring what a student knows, slice by slice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edufast.data import Batch, ClassSampler, DataSet, Loader
from edufast.training.settings import Precision, autocast

_BATCH = 256  # images that evaluate_on looks at together


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


def evaluate_on(
    model: nn.Module, data: DataSet, class_order: Sequence[int], slice_sizes: Sequence[int]
) -> Accuracy:
    """Accuracy over the whole validation split of the classes that ``model`` knows.

    Args:
        model: on any device.
        data: what to measure on.
        class_order: class id of each logit.
        slice_sizes: consecutive slices of them.
    """
    device = next(model.parameters()).device
    sampler = ClassSampler(data.val.labels, class_order)
    loader = Loader(
        data.val,
        sampler=sampler,
        batch_size=min(_BATCH, len(sampler)),
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        device=device,
    )
    rank = torch.full((len(data.classes),), -1)
    rank[list(class_order)] = torch.arange(len(class_order))
    return evaluate(model, loader.epoch(0), rank.to(device), slice_sizes)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    rank: Tensor,
    slice_sizes: Sequence[int],
    *,
    precision: Precision = "fp32",
) -> Accuracy:
    """Accuracy of ``model`` in eval mode; its mode is restored. Reads the device once, at the end.

    Args:
        model: maps (B, 3, H, W) to logits (B, C) in curriculum order.
        batches: of samples whose class is taught.
        rank: (number of classes,) int64 on the batches' device: class id to position.
        slice_sizes: consecutive slices of the positions; they add up to C.
        precision: that the model runs in.
    """
    number = torch.arange(len(slice_sizes), device=rank.device)
    # (C,): the slice of every position.
    slice_of = number.repeat_interleave(torch.tensor(slice_sizes, device=rank.device))
    # Samples of each slice: all, those answered right among all classes, and within the slice.
    counts = torch.zeros(3, len(slice_sizes), dtype=torch.int64, device=rank.device)
    was_training = model.training
    model.eval()
    try:
        with autocast(rank.device, precision):
            for batch in batches:
                logits, labels = model(batch.images), rank[batch.labels]
                own = slice_of[labels]
                others = slice_of[None, :] != own[:, None]
                free = logits.argmax(1) == labels
                masked = logits.masked_fill(others, float("-inf")).argmax(1) == labels
                tallies = torch.stack([torch.ones_like(free), free, masked]).long()
                counts.index_add_(1, own, tallies)
    finally:
        model.train(was_training)
    total, free, masked = counts.cpu()
    shares = total.clamp_min(1)
    return Accuracy(
        overall=int(free.sum()) / int(total.sum()),
        slices=tuple((free.double() / shares).tolist()),
        masked=tuple((masked.double() / shares).tolist()),
    )
