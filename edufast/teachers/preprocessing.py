"""The images a teacher expects, made of those the student is shown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edufast.models.image_format import ImageFormat


class Preprocess:
    """Images (B, 3, H, W) in one format, float32, to another: one multiply-add, then resizing.

    Resizing is bilinear and antialiased. What the formats agree on costs nothing.

    Args:
        given: of the images that come.
        wanted: of those that are to be made.
        device: of both.
    """

    def __init__(self, given: ImageFormat, wanted: ImageFormat, device: torch.device) -> None:
        self._size = None if wanted.size in (None, given.size) else wanted.size
        self._scale = self._shift = None
        if (given.mean, given.std) != (wanted.mean, wanted.std):
            constants = (*given[:2], *wanted[:2])
            m, s, mean, std = (torch.tensor(c).double().view(1, 3, 1, 1) for c in constants)
            self._scale = (s / std).float().to(device)
            self._shift = ((m - mean) / std).float().to(device)

    def __call__(self, images: Tensor) -> Tensor:
        if self._scale is not None and self._shift is not None:
            images = torch.addcmul(self._shift, images, self._scale)
        if self._size is not None:
            size = (self._size, self._size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return images
