"""Batches of all kinds, for the tests of every backend, and what they have to be."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from edufast.ops.reference.augment import DTYPES, Augment


def random_case(
    count: int = 9,
    height: int = 16,
    width: int = 16,
    channels: int = 3,
    batch: int = 20,
    pad: int = 4,
    flip: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Augment:
    """With the first and the last image, and the first and the last view, if the batch is that
    large."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        256, (count, height, width, channels), dtype=torch.uint8, generator=generator
    )
    views = (2 * pad + 1) ** 2 * (2 if flip else 1)
    index = torch.randint(count, (batch,), generator=generator)
    number = torch.randint(views, (batch,), generator=generator)
    index[:2], number[:2] = (
        torch.tensor([0, count - 1])[:batch],
        torch.tensor([views - 1, 0])[:batch],
    )
    mean = torch.rand(channels, generator=generator, dtype=torch.float64).tolist()
    std = (0.05 + torch.rand(channels, generator=generator, dtype=torch.float64)).tolist()
    return Augment(images, index, number, pad, flip, mean, std, dtype)


cases = st.builds(
    random_case,
    height=st.integers(1, 20),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    batch=st.integers(0, 20),
    pad=st.sampled_from([0, 1, 4, 25]),  # also more than there are pixels
    flip=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)


def pixels(p: Augment) -> np.ndarray:
    """(B, H, W, C) uint8: the views, as plainly as it can be said."""
    _, height, width, _ = p.images.shape
    padded = np.pad(p.images.numpy(), ((0, 0), (p.pad, p.pad), (p.pad, p.pad), (0, 0)))
    made = []
    for i, number in zip(p.index.tolist(), p.views.tolist(), strict=True):
        cell, mirrored = divmod(number, 2) if p.flip else (number, 0)
        y, x = divmod(cell, 2 * p.pad + 1)
        view = padded[i, y : y + height, x : x + width]
        made.append(view[:, ::-1] if mirrored else view)
    return np.array(made, dtype=np.uint8).reshape(len(made), *p.images.shape[1:])


def expected(p: Augment) -> Tensor:
    """(B, H, W, C): in NumPy's float32, step by step."""
    mean, std = (
        np.array([255 * v for v in values]).astype(np.float32) for values in (p.mean, p.std)
    )
    normalised = (pixels(p).astype(np.float32) - mean) * (np.float32(1) / std)
    return torch.from_numpy(normalised).to(p.dtype)


def assert_same_bits(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
