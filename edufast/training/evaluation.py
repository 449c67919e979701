"""Accuracy of a classifier, overall and slice by slice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edufast.data import Batch, ClassSampler, DataSet, Loader
from edufast.data.class_map import ClassMap
from edufast.training.settings import autocast
from edufast.utils.choices import Precision
from edufast.utils.modes import eval_mode

_BATCH = 256  # of evaluate_on


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracies, in [0, 1].

    Attributes:
        overall: over all samples.
        slices: over the samples of each slice, with predictions among all classes.
        masked: likewise, with predictions among the classes of the sample's own slice only. The
            difference from ``slices`` is the accuracy lost to confusion between slices.
    """

    overall: float
    slices: tuple[float, ...]
    masked: tuple[float, ...]

    @classmethod
    def of(cls, counts: Tensor) -> Accuracy:
        """From what :func:`tally` counted."""
        total, free, masked = counts.cpu()
        shares = total.clamp_min(1)
        return cls(
            overall=int(free.sum()) / int(total.sum()),
            slices=tuple((free.double() / shares).tolist()),
            masked=tuple((masked.double() / shares).tolist()),
        )


def evaluate_on(model: nn.Module, data: DataSet, class_map: ClassMap) -> Accuracy:
    """Accuracy over the whole validation split of the classes that ``model`` knows.

    Args:
        model: maps images (B, 3, H, W) to logits (B, C); on any device.
        data: its validation split is used.
        class_map: of the logits.
    """
    sampler = ClassSampler(data.val.labels, class_map.ids)
    loader = Loader(
        data.val,
        sampler=sampler,
        batch_size=min(_BATCH, len(sampler)),
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        device=next(model.parameters()).device,
    )
    return evaluate(model, loader.epoch(0), class_map)


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    class_map: ClassMap,
    *,
    precision: Precision = "fp32",
) -> Accuracy:
    """Accuracy of ``model`` in eval mode; modes are restored. Reads the device once, at the end.

    Args:
        model: maps images (B, 3, H, W) to logits (B, C); on the batches' device.
        batches: of samples whose classes are in the map.
        class_map: of the logits.
        precision: of the forward pass.
    """
    return Accuracy.of(tally(model, batches, class_map, precision=precision))


@torch.no_grad()
def tally(
    model: nn.Module,
    batches: Iterable[Batch],
    class_map: ClassMap,
    *,
    precision: Precision = "fp32",
) -> Tensor:
    """The numbers behind :func:`evaluate`, which has the same arguments.

    Returns:
        (3, number of slices) int64 on the device: samples, correct predictions among all classes,
        and among those of the slice.
    """
    device = next(model.parameters()).device
    positions, slice_of = class_map.positions(device), class_map.slice_of(device)
    counts = torch.zeros(3, len(class_map.slices), dtype=torch.int64, device=device)
    with eval_mode(model), autocast(device, precision):
        for batch in batches:
            logits, targets = model(batch.images), positions[batch.labels]
            own = slice_of[targets]
            others = slice_of[None, :] != own[:, None]
            free = logits.argmax(1) == targets
            masked = logits.masked_fill(others, float("-inf")).argmax(1) == targets
            tallies = torch.stack([torch.ones_like(free), free, masked]).long()
            counts.index_add_(1, own, tallies)
    return counts
