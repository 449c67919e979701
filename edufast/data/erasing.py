"""Random erasing (Zhong et al. 2020, arXiv 1708.04896): a rectangle of an image shows nothing."""

from __future__ import annotations

import numpy as np
import torch

from edufast.data.batch import Batch
from edufast.data.rng import Stream, generator
from edufast.utils.devices import to_device
from edufast.utils.ranks import own_rows

# Of the paper: share of the image's area, and height over width, whose logarithm is uniform.
_AREA, _RATIO = (0.02, 0.4), (0.3, 1 / 0.3)


@torch.no_grad()
def erased(share: float, batch: Batch, *, seed: int, epoch: int, iteration: int) -> Batch:
    """A batch in which ``share`` of the images, on average, have a rectangle of the mean colour.

    A rectangle that is too high or too wide is cut to the image's size; the paper draws another.
    Everything drawn is a function of seed, epoch and iteration.

    Args:
        share: from 0 to 1.
        batch: normalised images; on one rank of several, its own rows.
    """
    images, rng = batch.images, generator(seed, Stream.ERASE, epoch, iteration)
    chosen, area, ratio, *place = rng.random((5, len(batch.whole.labels)))[:, own_rows()]
    size = np.array(images.shape[2:])[:, None]
    area = np.interp(area, (0, 1), _AREA) * size.prod()
    ratio = np.exp(np.interp(ratio, (0, 1), np.log(_RATIO)))
    sides = np.minimum(np.rint(np.sqrt([area * ratio, area / ratio])), size)
    first = np.floor(np.stack(place) * (size - sides + 1))
    last = np.where(chosen < share, first + sides, 0)
    bounds = to_device(torch.from_numpy(np.stack([first, last]).astype(np.int64)), images.device)
    (top, left), (bottom, right) = bounds[:, :, :, None]
    y, x = (torch.arange(n, device=images.device) for n in images.shape[2:])
    rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return batch._replace(images=images.clone().masked_fill_(inside, 0.0))
