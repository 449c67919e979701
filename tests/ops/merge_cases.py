"""Merges of all kinds, for the tests of every backend."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from edufast.ops.reference.merge import Merge

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
LAYOUTS = ("contiguous", "permuted", "strided", "misaligned", "channels_last")


def laid_out(values: Tensor, layout: str) -> Tensor:
    """A tensor of equal values that lies in memory in another way."""
    if layout == "permuted" and values.dim() > 1:
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and values.dim():
        wide = torch.stack([values, torch.zeros_like(values)], -1)
        return wide[..., 0]
    if layout == "misaligned":
        return torch.cat([values.flatten()[:0], values.new_zeros(1), values.flatten()])[1:].view(
            values.shape
        )
    if layout == "channels_last" and values.dim() == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values.clone()


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype in FLOATS:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    high = 2 if dtype == torch.bool else 100
    return torch.randint(0, high, shape, generator=generator).to(dtype)


@st.composite
def merges(draw: st.DrawFn) -> Merge:
    """Lists of tensors of all shapes, types and layouts, and numbers to merge them with."""
    count = draw(st.integers(1, 5))
    lists = draw(st.integers(1, 5))
    targets, sources, fill = [], [[] for _ in range(lists)], []
    for i in range(count):
        shape = tuple(draw(st.lists(st.sampled_from((0, 1, 2, 3, 17)), max_size=4)))
        if draw(st.booleans()) and not shape:
            shape = (draw(st.sampled_from((1023, 1024, 1025, 9000))),)  # around a block and a tile
        is_float = draw(st.integers(0, 3)) > 0
        dtypes = st.sampled_from(FLOATS) if is_float else st.just(draw(st.sampled_from(INTEGERS)))
        target = values(shape, draw(dtypes), 100 * i)
        targets.append(laid_out(target, draw(st.sampled_from(LAYOUTS))))
        rows = draw(st.integers(0, shape[0])) if shape else None
        for n, tensors in enumerate(sources):
            source = values(shape, draw(dtypes), 100 * i + n + 1)
            source = source[:rows] if shape else source
            tensors.append(laid_out(source, draw(st.sampled_from(LAYOUTS))))
        fill.append(draw(st.sampled_from((math.nan, 0.0, 1.0))))
    numbers = st.floats(-2, 2, width=16)
    weights = draw(st.lists(numbers, min_size=lists, max_size=lists))
    keep = draw(st.sampled_from((0.0, 0.5, 0.999)))
    flat = [t for tensors in sources for t in tensors]
    return Merge(targets, flat, weights, keep, draw(st.sampled_from(([], fill))), [], [])


def after(run: Callable[..., None], m: Merge, device: str = "cpu") -> list[Tensor]:
    """The targets after a run on copies on ``device`` that lie in memory in the same way."""
    targets = [_like(t, device) for t in m.targets]
    with torch.no_grad():
        run(*m._replace(targets=targets, sources=[_like(s, device) for s in m.sources]))
    return [t.cpu() for t in targets]


def _like(t: Tensor, device: str) -> Tensor:
    """A copy with the same strides and alignment; clone() would close the gaps."""
    if not t.numel():
        return t.to(device, copy=True)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    offset = t.data_ptr() % 16 // t.element_size()
    storage = torch.zeros(offset + extent, dtype=t.dtype, device=device)
    return storage.as_strided(t.shape, t.stride(), offset).copy_(t)


def assert_same_bits(got: list[Tensor], expected: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(a, b), f"targets[{i}] {a.dtype} {tuple(a.shape)}"


@st.composite
def poolings(draw: st.DrawFn) -> Merge:
    """A mean, its variance and a bystander."""
    lists, keep = draw(st.integers(1, 4)), draw(st.sampled_from((0.0, 0.25)))
    dtype, layout = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(LAYOUTS))
    rows = draw(st.sampled_from((1, 5, 1500)))
    grown = draw(st.booleans())
    shape = (rows + grown, 2)
    targets = [laid_out(values(shape, dtype, k).abs(), layout) for k in range(3)]
    sources = [
        laid_out(values(shape, torch.float32, 9 * n + k)[:rows].abs(), layout)
        for n in range(lists)
        for k in range(3)
    ]
    weights = [(1 - keep) / lists] * lists
    return Merge(targets, sources, weights, keep, [0.0, 1.0, 2.0] if grown else [], [2, 0], [])
