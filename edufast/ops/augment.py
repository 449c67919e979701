"""Batches of augmented images, made from bytes that are on the device already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edufast.ops._arguments import tensor
from edufast.ops._library import checked, register
from edufast.ops.backends import select_backend
from edufast.ops.reference.augment import MAX_PAD, Augment, reference
from edufast.utils._torch_private import Operator, as_constant
from edufast.utils.instances import check_instance
from edufast.utils.numbers import real_numbers, whole_number

# --- the operator: no derivative ----------------------------------------------------------------


def _fake(*arguments: Any) -> Tensor:
    p = Augment(*arguments)
    p.check()
    return p.images.new_empty((p.index.shape[0], *p.images.shape[1:]), dtype=p.dtype)


def register_augment(operator: Operator) -> None:
    """Shapes of an operator with this schema; it is not differentiable."""
    register(operator, _fake)


register_augment(torch.ops.edufast.augment.default)


def _run(backend: str, p: Augment) -> Tensor:
    if backend == "reference":
        p.check()
        return reference(*p)
    if backend == "triton":
        from edufast.kernels.augment import augment
    else:
        augment = torch.ops.edufast.augment.default
    made: Tensor = checked(augment, *p)
    return made


# --- public function ----------------------------------------------------------------------------


def augment(
    images: Tensor,
    index: Tensor,
    views: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    pad: int = 0,
    flip: bool = False,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """A batch of shifted, mirrored, normalised images, in one pass, without waiting for the device.

    Image b of the batch is view ``views[b]`` of ``images[index[b]]``: shifted by up to ``pad``
    pixels up, down, left or right, with a black border, mirrored left to right or not, and
    normalised, ``(pixel / 255 - mean) / std``. A view is a number, see
    :attr:`edufast.data.Augment.views`: ``((y + pad) * (2 pad + 1) + x + pad) * 2 + mirrored`` for a
    shift by (y, x), without the last step if ``flip`` is False. All backends give the same bits,
    which are those of DALI's ``slice`` and ``crop_mirror_normalize`` on the CPU.

    Args:
        images: (N, H, W, C) uint8, contiguous; C from 1 to 4.
        index: (B,) int64, positions in ``images``, on the same device.
        views: (B,) int64, from 0 to ``(2 pad + 1)^2 * (2 if flip else 1) - 1``, likewise.
        mean: C numbers, of pixel / 255.
        std: C numbers above 0, of pixel / 255.
        pad: largest shift, in pixels.
        flip: whether views may also be mirrored.
        dtype: of the result: float32, bfloat16 or float16.
        backend: "reference", "cpp", "cuda", "triton"; None: the best for the device.

    Returns:
        (B, C, H, W) in channels_last.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it. Indices and
            views on a GPU are not checked: one that is out of range makes its image NaN.
    """
    index, views = tensor("index", index).contiguous(), tensor("views", views).contiguous()
    images = tensor("images", images)
    check_instance("flip", flip, bool)
    if torch.compiler.is_compiling():
        flip = as_constant(flip)  # like mean and std
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is {dtype!r}; expected a torch.dtype, such as torch.float32")
    pad = whole_number("pad", pad, 0, MAX_PAD)
    p = Augment(
        images, index, views, pad, flip, _numbers("mean", mean), _numbers("std", std), dtype
    )
    name = select_backend(backend, images)
    return _run(name, p).permute(0, 3, 1, 2)


def _numbers(name: str, values: Any) -> list[float]:
    """In a traced graph constants, as those of :func:`edufast.ops.merge_`."""
    if torch.compiler.is_compiling() and isinstance(values, (list, tuple)):
        values = [as_constant(x) if isinstance(x, (int, float)) else x for x in values]
    return list(real_numbers(name, values, least=-math.inf))
