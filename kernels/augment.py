# mypy: disallow-untyped-defs=False
"""augment in Triton: semantics as in edufast/ops/reference/augment.py, in one launch.

A program makes a part of one image. The bits are those of the reference.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from edufast.kernels._common import check_processor
from torch import Tensor

from edufast.ops._library import define_like
from edufast.ops.augment import register_augment
from edufast.ops.reference.augment import Augment, constants

ELEMENTS = 1024  # of a program: eight a thread, 16 bytes of a half type


@triton.jit
def _of_channel(c, values, C: tl.constexpr):
    x = tl.full(c.shape, values[0], tl.float32)
    for k in tl.static_range(1, C):
        x = tl.where(c == k, values[k], x)
    return x


@triton.jit
def _augment_kernel(
    images, index, views, out, mean, scale, count, view_count, height, width, pad,
    C: tl.constexpr, FLIP: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    size = height * width * C
    parts = tl.cdiv(size, ELEMENTS)
    b = (tl.program_id(0) // parts).to(tl.int64)
    i, number = tl.load(index + b), tl.load(views + b)
    known = (i >= 0) & (i < count) & (number >= 0) & (number < view_count)
    number = tl.where(known, number, 0).to(tl.int32)
    cell, mirrored = number, number < 0
    if FLIP:
        cell, mirrored = number // 2, number % 2 == 1
    element = tl.program_id(0) % parts * ELEMENTS + tl.arange(0, ELEMENTS)
    c, x = element % C, element // C % width
    x = tl.where(mirrored, width - 1 - x, x) + cell % (2 * pad + 1) - pad
    y = element // C // width + cell // (2 * pad + 1) - pad
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (element < size)
    place = tl.where(known, i, 0) * size + (y * width + x) * C + c
    byte = tl.load(images + place, mask=inside & known, other=0)
    made = (byte.to(tl.float32) - _of_channel(c, mean, C)) * _of_channel(c, scale, C)
    made = tl.where(known, made, float("nan")).to(out.dtype.element_ty)
    tl.store(out + b * size + element, made, mask=element < size)


def _augment(*arguments: Any) -> Tensor:
    p = Augment(*arguments)
    p.check()
    check_processor("images", p.images)
    count, height, width, channels = p.images.shape
    out = p.images.new_empty((len(p.index), height, width, channels), dtype=p.dtype)
    mean, scale = (tuple(x.tolist()) for x in constants(p.mean, p.std))
    programs = len(p.index) * triton.cdiv(height * width * channels, ELEMENTS)
    if not programs:
        return out
    with torch.cuda.device_of(p.images):
        _augment_kernel[(programs,)](
            p.images, p.index, p.views, out, mean, scale, count, p.view_count, height, width,
            p.pad, C=channels, FLIP=p.flip, ELEMENTS=ELEMENTS,
            enable_fp_fusion=False,
        )  # fmt: skip
    return out


augment = define_like(torch.ops.edufast.augment.default, "augment_triton", _augment)
register_augment(augment)
