"""From image bytes to the model's input: one implementation for the graph, one to check it.

A deployed model whose images are preprocessed differently from its training images gives wrong
results without any error, so the preprocessing is part of the exported file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edufast.data.samples import constants


class Preprocessed(nn.Module):
    """Preprocessing followed by ``model``: image bytes in, logits out.

    Args:
        model: maps (N, C, H, W) float32 images, normalised per channel, to logits.
        mean: C means of pixel / 255.
        std: C standard deviations of pixel / 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        # In units of pixel values, so that the graph needs no operation for the factor 1 / 255.
        for name, values in (("mean", mean), ("std", std)):
            constants = torch.tensor(values, dtype=torch.float32, device="cpu")
            self.register_buffer(name, constants * 255)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes) float32 of image bytes (N, H, W, C) uint8."""
        pixels = (image.to(torch.float32) - self.mean) / self.std
        return self.model(pixels.permute(0, 3, 1, 2))


class Contiguous(nn.Module):
    """``model`` on contiguous images: those that are made of bytes have their channels last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        logits: Tensor = self.model(images.contiguous())
        return logits


def for_channels_last(model: nn.Module, input_size: Sequence[int]) -> nn.Module:
    """``model`` in eval mode, or :class:`Contiguous` where it fails on an image whose channels are
    last, as one does that calls ``view(len(x), -1)`` on a feature map."""
    channels, height, width = input_size
    try:
        with torch.inference_mode():
            model(torch.zeros(1, height, width, channels).permute(0, 3, 1, 2))
    except Exception:
        return Contiguous(model).eval()
    return model


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(N, H, W, C) uint8 image bytes to (N, C, H, W) float32, as in the training pipeline.

    Deliberately independent of `Preprocessed`: verification compares the two.
    """
    scaled = images.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def check_constants(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[list[float], list[float]] | None:
    """Mean and std as lists of ``channels`` floats, or None if neither is given.

    Raises:
        ValueError: only one is given, or they cannot normalise ``channels`` channels.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        missing = "mean" if mean is None else "std"
        raise ValueError(f"mean and std must be given together: {missing} is missing")
    return list(constants("mean", mean, channels)), list(constants("std", std, channels))
