"""The way from image bytes to the model's input, written once for the graph and once for checks.

A deployed student that is fed images prepared differently from its training images fails without
an error message, so the preprocessing travels inside the exported file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class Preprocessed(nn.Module):
    """``model`` behind its preprocessing: image bytes in, logits out.

    Args:
        model: takes (N, C, H, W) float32 images normalised per channel.
        mean: C per-channel means of pixel / 255.
        std: C per-channel standard deviations of pixel / 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        # In units of pixel values: scaling by 1 / 255 costs no operation of its own.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32) * 255)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32) * 255)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes) float32 of image bytes (N, H, W, C) uint8."""
        pixels = (image.to(torch.float32) - self.mean) / self.std
        return self.model(pixels.permute(0, 3, 1, 2))


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(N, H, W, C) uint8 image bytes as (N, C, H, W) float32, as the training pipeline makes them.

    Written apart from `Preprocessed` on purpose: verification compares the two.
    """
    scaled = images.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def check_constants(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[list[float], list[float]] | None:
    """The constants as two lists of ``channels`` floats, or None when neither is given."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        missing = "mean" if mean is None else "std"
        raise ValueError(f"mean and std go together: {missing} is missing")
    means, deviations = [float(m) for m in mean], [float(s) for s in std]
    for name, values in (("mean", means), ("std", deviations)):
        if len(values) != channels or not np.isfinite(values).all():
            raise ValueError(f"{name} must be {channels} finite numbers, one a channel: {values}")
    if min(deviations) <= 0:
        raise ValueError(f"std must be positive: {deviations}")
    return means, deviations
