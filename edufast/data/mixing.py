"""Labels that are probabilities: smoothed ones, and those of images that are mixed in pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edufast.data.batch import Batch
from edufast.data.rng import Stream, generator
from edufast.utils.choices import Mix
from edufast.utils.collectives import gather_rows
from edufast.utils.devices import to_device
from edufast.utils.ranks import own_rows


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels of which a share is spread evenly over all classes (Szegedy et al. 2016).

    Args:
        labels: (B,) int64 in [0, classes), or probabilities (B, classes).
        classes: number of columns of the logits.
        smoothing: the share, from 0 to 1.

    Returns:
        Probabilities (B, classes) in float32.
    """
    if labels.dim() == 1:
        labels = _probabilities(labels, classes)
    return (1 - smoothing) * labels + smoothing / classes


@torch.no_grad()
def mixed(
    kind: Mix,
    batch: Batch,
    targets: Tensor,
    classes: int,
    *,
    seed: int,
    epoch: int,
    iteration: int,
) -> tuple[Batch, Tensor]:
    """A batch mixed with itself in another order, and its soft labels.

    mixup (Zhang et al. 2018): ``s * image + (1 - s) * other``. CutMix (Yun et al. 2019): a
    rectangle of about 1 - s of the area is the other's. Labels are mixed in the same shares. s is
    uniform on [0, 1), that is Beta(1, 1); s and the rectangle are drawn once for the batch, as a
    function of seed, epoch and iteration.

    Args:
        batch: on one rank of several, its own rows.
        targets: (B,) int64 in [0, classes), of the whole batch.
        classes: number of columns of the logits.

    Returns:
        The batch with its mixed images, and probabilities (B, classes) in float32.
    """
    images = batch.images
    rng = generator(seed, Stream.MIX, epoch, iteration)
    share, y, x = rng.random(3).tolist()
    order = to_device(torch.from_numpy(rng.permutation(len(targets))), targets.device)
    others = gather_rows(images, len(targets))[order][own_rows()]
    if kind == "mixup":
        images = torch.lerp(others, images, share)
    else:
        height, width = images.shape[2:]
        side = math.sqrt(1 - share)
        rows, columns = _part(y, side, height), _part(x, side, width)
        images = images.clone()
        images[:, :, rows, columns] = others[:, :, rows, columns]
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - cut / (height * width)
    labels = _probabilities(targets, classes)
    return batch._replace(images=images), share * labels + (1 - share) * labels[order]


def _probabilities(labels: Tensor, classes: int) -> Tensor:
    """Not by ``F.one_hot``, which waits for the device."""
    zeros = torch.zeros(len(labels), classes, device=labels.device)
    return zeros.scatter(1, labels[:, None], 1.0)


def _part(centre: float, side: float, size: int) -> slice:
    """Of ``size`` pixels a ``side`` of them, cut off at the border, as in the paper."""
    half, middle = round(side * size / 2), int(centre * size)
    return slice(max(0, middle - half), min(size, middle + half))
