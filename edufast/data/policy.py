"""RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller and Hutter 2021): torchvision's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edufast.data.batch import Batch
from edufast.data.rng import Stream, generator
from edufast.utils.choices import Policy
from edufast.utils.devices import to_device
from edufast.utils.extras import needed_for
from edufast.utils.ranks import own_rows


@functools.cache
def transform(policy: Policy) -> Callable[[Tensor], Tensor]:
    """A transform that alters an image (3, H, W) uint8 at random, by torch's global generator.

    Raises:
        MissingPackageError: torchvision is not installed.
    """
    with needed_for(f"policy {policy!r}", "train"):
        from torchvision.transforms import v2
    made: Callable[[Tensor], Tensor]
    made = v2.RandAugment() if policy == "randaugment" else v2.TrivialAugmentWide()
    return made


@torch.no_grad()
def altered(
    policy: Policy,
    batch: Batch,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    epoch: int,
    iteration: int,
) -> Batch:
    """A batch whose images are changed one by one.

    Every random choice is a function of seed, epoch, iteration and row; torch's generator is left
    as it was.

    Args:
        policy: not "none".
        batch: on one rank of several, its own rows.
        mean: per channel, of pixel / 255, with which the images are normalised.
        std: as ``mean``.
    """
    images, change = batch.images, transform(policy)
    constants = 255 * torch.tensor([mean, std], device="cpu")
    shift, scale = to_device(constants, images.device)[..., None, None]
    pixels = (images * scale + shift).round().clamp(0, 255).to(torch.uint8)
    rng = generator(seed, Stream.POLICY, epoch, iteration)
    seeds = rng.integers(0, 2**63, len(batch.whole.labels))[own_rows()].tolist()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for image, own in zip(pixels, seeds, strict=True):
            # Not torch.manual_seed, which would also seed the accelerators.
            torch.default_generator.manual_seed(own)
            image.copy_(change(image))
    return batch._replace(images=(pixels.to(images.dtype) - shift) / scale)
