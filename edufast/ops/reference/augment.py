"""The specification of augment: its arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.utils._torch_private import values_are_at_hand

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_CHANNELS = 4
MAX_PAD = 2**14 - 1  # kernels count views in 32 bits


class Augment(NamedTuple):
    """The arguments of the operator ``edufast::augment``, in the order of its schema."""

    images: Tensor  # (N, H, W, C) uint8, contiguous
    index: Tensor  # type: ignore[assignment]  # (B,) int64, contiguous; not tuple.index
    views: Tensor  # (B,) int64, contiguous
    pad: int
    flip: bool
    mean: Sequence[float]  # C, of pixel / 255
    std: Sequence[float]  # C
    dtype: torch.dtype

    @property
    def shifts(self) -> int:
        """Positions along one axis."""
        return 2 * self.pad + 1

    @property
    def view_count(self) -> int:
        """Number of different views of an image."""
        return self.shifts**2 * (2 if self.flip else 1)

    def check(self) -> None:
        """Refuse what the operator in C++ refuses.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        self._check_images()
        for name, x in (("index", self.index), ("views", self.views)):
            if x.dtype != torch.int64 or x.dim() != 1 or not x.is_contiguous():
                raise ValueError(
                    f"{name} has shape {tuple(x.shape)} and dtype {x.dtype}; expected contiguous "
                    "int64 (B,)"
                )
            if x.device != self.images.device:
                raise ValueError(
                    f"{name} is on {x.device}; expected {self.images.device}, like images"
                )
        if self.views.shape != self.index.shape:
            raise ValueError(
                f"views has {len(self.views)} numbers; expected {len(self.index)}, like index"
            )
        if not 0 <= self.pad <= MAX_PAD:
            raise ValueError(f"pad is {self.pad}; expected 0 to {MAX_PAD}")
        self._check_channels("mean", self.mean, -1e18, 1e18)
        self._check_channels("std", self.std, 1e-18, 1e18)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype}; expected float32, bfloat16 or float16")
        self._check_numbers("index", self.index, self.images.shape[0])
        self._check_numbers("views", self.views, self.view_count)

    def _check_images(self) -> None:
        x = self.images
        shaped = x.dim() == 4 and 1 <= x.shape[3] <= MAX_CHANNELS and 0 not in x.shape[1:]
        if x.dtype != torch.uint8 or not shaped or not x.is_contiguous():
            raise ValueError(
                f"images has shape {tuple(x.shape)} and dtype {x.dtype}; expected contiguous uint8 "
                f"(N, H, W, C), C from 1 to {MAX_CHANNELS}"
            )
        # Kernels count the bytes of an image in 32 bits.
        if math.prod(x.shape[1:]) > 2**28:
            raise ValueError(f"images has shape {tuple(x.shape)}; expected at most 2^28 bytes each")

    def _check_channels(self, name: str, values: Sequence[float], low: float, high: float) -> None:
        channels = self.images.shape[3]
        if len(values) != channels:
            raise ValueError(
                f"{name} has {len(values)} numbers; expected {channels}, like the channels of "
                "images"
            )
        for c, value in enumerate(values):
            if not low <= value <= high:
                raise ValueError(
                    f"{name}[{c}] is {value}; expected a number from {low:g} to {high:g}"
                )

    def _check_numbers(self, name: str, x: Tensor, count: int) -> None:
        """Skips tensors on a device, rather than wait for it: see :func:`reference`."""
        if not values_are_at_hand(x):
            return
        if not count and len(x):
            raise ValueError(f"{name} has {len(x)} numbers; expected none without images")
        wrong = (x < 0) | (x >= count)
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise ValueError(f"{name}[{i}] is {int(x[i])}; expected 0 to {count - 1}")


def reference(*arguments: object) -> Tensor:
    """(B, H, W, C): view ``views[b]`` of image ``index[b]``, normalised.

    View number v encodes the offset (y, x) of the view's corner from the image's, each from -pad to
    pad, and whether the view is then mirrored left to right:
    v = ((y + pad) * (2 pad + 1) + x + pad) * m + mirrored, where m is 2, or 1 without ``flip``.
    Pixels outside the image are 0.

    Normalised is ``(pixel - mean') * (1 / std')``, with ``mean' = 255 mean`` and ``std' = 255 std``
    rounded to float32, and every operation rounded to float32: the bits of DALI's
    ``crop_mirror_normalize``. What is not float32 is rounded from it.

    An index or view number out of range is an error if it can be read without waiting for a device;
    otherwise its image is NaN.
    """
    p = Augment(*arguments)  # type: ignore[arg-type]
    count, height, width, _ = p.images.shape
    device = p.images.device
    known = (p.index >= 0) & (p.index < count) & (p.views >= 0) & (p.views < p.view_count)
    if not count:  # so that there is none in the batch either, or none that is known
        return torch.full(
            (len(p.index), *p.images.shape[1:]), math.nan, dtype=p.dtype, device=device
        )
    index, number = torch.where(known, p.index, 0), torch.where(known, p.views, 0)
    mirrored = number % 2 == 1 if p.flip else torch.zeros_like(known)
    cell = torch.div(number, 2, rounding_mode="floor") if p.flip else number
    y = torch.div(cell, p.shifts, rounding_mode="floor") - p.pad
    x = cell % p.shifts - p.pad
    rows = torch.arange(height, device=device) + y[:, None]
    columns = torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + x[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    pixels = p.images[
        index[:, None, None],
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None, :],
    ]
    pixels = torch.where(inside[..., None], pixels, 0).float()
    mean, scale = constants(p.mean, p.std)
    channels = [(channel - mean[c]) * scale[c] for c, channel in enumerate(pixels.unbind(-1))]
    normalised = torch.stack(channels, -1)
    return torch.where(known[:, None, None, None], normalised, math.nan).to(p.dtype)


def constants(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(C,) float32 on the CPU: what is subtracted from a pixel, and what it is multiplied by."""
    # 1 / std is computed in float32, too, from the std that is rounded already.
    means = torch.tensor([255 * m for m in mean], dtype=torch.float32, device="cpu")
    stds = torch.tensor([255 * s for s in std], dtype=torch.float32, device="cpu")
    return means, 1 / stds
