# mypy: disallow-untyped-defs=False
"""merge_ in Triton: semantics as in edufast/ops/reference/merge.py, in one launch.

A table of 64-bit numbers goes to the device: the weights, then one entry per tensor with addresses,
size and types. Tiles of all tensors make one range, which the programs share. Accumulation is in
fp32, or fp64 where a tensor is, without fused multiply-adds: the bits are those of the reference.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from edufast.kernels._common import check_processor
from torch import Tensor

from edufast.ops.reference.merge import Merge

TILE = 1024
WARPS = 4  # eight elements a thread: 16 bytes of a half type
MAX_PROGRAMS = 4096

# An entry: address, size, first tile, rule, type, whether aligned; address and type per source.
ADDRESS, SIZE, FIRST, RULE, TYPE, ALIGNED, FIELDS = (tl.constexpr(i) for i in range(7))

_RULES = ("average", "average64", "largest", "moments", "fill")
AVERAGE, AVERAGE64, LARGEST, MOMENTS, FILL = (tl.constexpr(i) for i in range(5))

_TYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
F32, BF16, F16, F64, I64, I32, I16, I8, U8, BOOL = (tl.constexpr(i) for i in range(10))


@triton.jit
def _read(address, T: tl.constexpr, at, mask, WHOLE: tl.constexpr):
    """A whole tile of an aligned tensor is read without a mask, 16 bytes at a time."""
    if WHOLE:
        return tl.load(tl.multiple_of(address.to(tl.pointer_type(T), bitcast=True), 16) + at)
    else:
        return tl.load(address.to(tl.pointer_type(T), bitcast=True) + at, mask=mask, other=0)


@triton.jit
def _write(x, address, T: tl.constexpr, at, mask, WHOLE: tl.constexpr):
    if WHOLE:
        tl.store(tl.multiple_of(address.to(tl.pointer_type(T), bitcast=True), 16) + at, x.to(T))
    else:
        tl.store(address.to(tl.pointer_type(T), bitcast=True) + at, x.to(T), mask=mask)


@triton.jit
def _load(address, type, at, mask, A: tl.constexpr, WHOLE: tl.constexpr):
    """Elements of any floating point type, as A."""
    x = tl.full(at.shape, 0, A)
    if type == F32:
        x = _read(address, tl.float32, at, mask, WHOLE).to(A)
    elif type == BF16:
        x = _read(address, tl.bfloat16, at, mask, WHOLE).to(A)
    elif type == F16:
        x = _read(address, tl.float16, at, mask, WHOLE).to(A)
    else:
        x = _read(address, tl.float64, at, mask, WHOLE).to(A)
    return x


@triton.jit
def _store(x, address, type, at, mask, WHOLE: tl.constexpr):
    if type == F64:
        _write(x, address, tl.float64, at, mask, WHOLE)
    elif type == F32:
        _write(x, address, tl.float32, at, mask, WHOLE)
    elif type == BF16:
        _write(x.to(tl.float32), address, tl.bfloat16, at, mask, WHOLE)
    else:
        _write(x.to(tl.float32), address, tl.float16, at, mask, WHOLE)


@triton.jit
def _average(
    weights, entry, at, mask, N: tl.constexpr, KEPT: tl.constexpr, A: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """keep * target + sum w * source, in this order."""
    address, type = tl.load(entry + ADDRESS), tl.load(entry + TYPE)
    acc = tl.full(at.shape, 0, A)
    if KEPT:
        acc = tl.load(weights).to(A) * _load(address, type, at, mask, A, WHOLE)
    for n in tl.static_range(N):
        source = entry + FIELDS + 2 * n
        x = _load(tl.load(source), tl.load(source + 1), at, mask, A, WHOLE)
        term = tl.load(weights + 1 + n).to(A) * x
        if n == 0 and not KEPT:
            acc = term
        else:
            acc += term
    _store(acc, address, type, at, mask, WHOLE)


@triton.jit
def _largest_of(entry, at, mask, N: tl.constexpr, T: tl.constexpr):
    best = _read(tl.load(entry + FIELDS), T, at, mask, False)
    for n in tl.static_range(1, N):
        x = _read(tl.load(entry + FIELDS + 2 * n), T, at, mask, False)
        best = tl.where(x > best, x, best)
    _write(best, tl.load(entry + ADDRESS), T, at, mask, False)


@triton.jit
def _largest(entry, at, mask, N: tl.constexpr):
    type = tl.load(entry + TYPE)
    if type == I64:
        _largest_of(entry, at, mask, N, tl.int64)
    elif type == I32:
        _largest_of(entry, at, mask, N, tl.int32)
    elif type == I16:
        _largest_of(entry, at, mask, N, tl.int16)
    elif type == I8:
        _largest_of(entry, at, mask, N, tl.int8)
    else:
        _largest_of(entry, at, mask, N, tl.uint8)


@triton.jit
def _fill(entry, at, mask):
    """The value's bits, fp64 or int64, stand in the place of the first source's address."""
    address, type, bits = tl.load(entry + ADDRESS), tl.load(entry + TYPE), entry + FIELDS
    if type <= F64:
        value = tl.load(bits.to(tl.pointer_type(tl.float64), bitcast=True))
        _store(tl.full(at.shape, 0, tl.float64) + value, address, type, at, mask, False)
    else:
        whole = tl.full(at.shape, 0, tl.int64) + tl.load(bits)
        if type == I64:
            _write(whole, address, tl.int64, at, mask, False)
        elif type == I32:
            _write(whole, address, tl.int32, at, mask, False)
        elif type == I16:
            _write(whole, address, tl.int16, at, mask, False)
        else:
            _write(whole, address, tl.int8, at, mask, False)


@triton.jit
def _add_moments(total, mean, m, v, weight):
    away = m - mean
    return total + weight * (away * away) + weight * v


@triton.jit
def _moments(weights, entry, at, mask, N: tl.constexpr, KEPT: tl.constexpr):
    """Of a mixture: the entry of the mean, followed by that of the variance."""
    other = entry + FIELDS + 2 * N
    keep = tl.load(weights)
    mean_address, mean_type = tl.load(entry + ADDRESS), tl.load(entry + TYPE)
    address, type = tl.load(other + ADDRESS), tl.load(other + TYPE)
    mean = tl.full(at.shape, 0, tl.float64)
    total = tl.full(at.shape, 0, tl.float64)
    if KEPT:
        mean += keep * _load(mean_address, mean_type, at, mask, tl.float64, False)
    for n in tl.static_range(N):
        s = FIELDS + 2 * n
        m = _load(tl.load(entry + s), tl.load(entry + s + 1), at, mask, tl.float64, False)
        mean += tl.load(weights + 1 + N + n) * m
    if KEPT:
        m = _load(mean_address, mean_type, at, mask, tl.float64, False)
        v = _load(address, type, at, mask, tl.float64, False)
        total = _add_moments(total, mean, m, v, keep)
    for n in tl.static_range(N):
        s = FIELDS + 2 * n
        m = _load(tl.load(entry + s), tl.load(entry + s + 1), at, mask, tl.float64, False)
        v = _load(tl.load(other + s), tl.load(other + s + 1), at, mask, tl.float64, False)
        total = _add_moments(total, mean, m, v, tl.load(weights + 1 + N + n))
    _store(mean, mean_address, mean_type, at, mask, False)
    _store(total, address, type, at, mask, False)


@triton.jit(do_not_specialize=["num_entries", "num_tiles"])
def merge_kernel(
    table, num_entries, num_tiles, N: tl.constexpr, KEPT: tl.constexpr, TILE: tl.constexpr
):
    weights = table.to(tl.pointer_type(tl.float64), bitcast=True)
    entries = table + 1 + 2 * N
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        low = 0
        above = num_entries
        while above - low > 1:  # the last entry that begins at or before `tile`
            middle = (low + above) // 2
            before = tl.load(entries + middle * (FIELDS + 2 * N) + FIRST) <= tile
            low = tl.where(before, middle, low)
            above = tl.where(before, above, middle)
        entry = entries + low * (FIELDS + 2 * N)
        begin = (tile - tl.load(entry + FIRST)) * TILE
        size = tl.load(entry + SIZE)
        at = begin + tl.arange(0, TILE).to(tl.int64)
        mask = at < size
        rule = tl.load(entry + RULE)
        if rule == AVERAGE:
            if (tl.load(entry + ALIGNED) != 0) & (begin + TILE <= size):
                _average(weights, entry, at, mask, N, KEPT, tl.float32, True)
            else:
                _average(weights, entry, at, mask, N, KEPT, tl.float32, False)
        elif rule == AVERAGE64:
            _average(weights, entry, at, mask, N, KEPT, tl.float64, False)
        elif rule == LARGEST:
            _largest(entry, at, mask, N)
        elif rule == MOMENTS:
            _moments(weights, entry, at, mask, N, KEPT)
        else:
            _fill(entry, at, mask)


# --- the table ----------------------------------------------------------------------------------


class _Table:
    """Numbers of the entries, and the copies of tensors that are no line of memory."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.numbers = [_bits(w) for w in weights]
        self.entries = self.tiles = 0
        self.keep_alive: list[Tensor] = []
        self.write_back: list[tuple[Tensor, Tensor]] = []

    def add(self, rule: str, target: Tensor, sources: list[Tensor], tiles: bool = True) -> None:
        """Elements of contiguous tensors."""
        tensors = [target, *sources]
        aligned = all(t.data_ptr() % 16 == 0 for t in tensors)
        self.numbers += [target.data_ptr(), target.numel(), self.tiles, _RULES.index(rule)]
        self.numbers += [_TYPES.index(target.dtype), int(aligned)]
        for source in sources:
            self.numbers += [source.data_ptr(), _TYPES.index(source.dtype)]
        self.entries += 1
        self.tiles += triton.cdiv(target.numel(), TILE) if tiles else 0

    def add_fill(self, target: Tensor, value: float, lists: int) -> None:
        self.add("fill", target, [])
        bits = _bits(value) if target.is_floating_point() else int(value)
        self.numbers += [bits, 0] + [0, 0] * (lists - 1)

    def line(self, target: Tensor) -> Tensor:
        """The target if it is contiguous, else a copy that is written back."""
        if not target.is_contiguous():
            copied = target.contiguous()
            self.write_back.append((target, copied))
            return copied
        return target

    def lines(self, sources: list[Tensor]) -> list[Tensor]:
        self.keep_alive += [s.contiguous() for s in sources]
        return self.keep_alive[-len(sources) :]


def _bits(value: float) -> int:
    number: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return number


def merge_(
    targets: list[Tensor],
    sources: list[Tensor],
    weights: list[float],
    keep: float,
    fill: list[float],
    moments: list[int],
    moment_weights: list[float],
) -> None:
    """Arguments as of the operator ``edufast::merge_``, on one device.

    The table goes to the device with each call, asynchronously and from pinned memory: capture the
    "cuda" backend in a graph, not this one.

    Raises:
        ValueError: as the operator; also if the tensors are on several devices.
    """
    Merge(targets, sources, weights, keep, fill, moments, moment_weights).check()
    check_processor("targets[0]", targets[0])
    device = targets[0].device
    for i, target in enumerate(targets):
        if target.device != device:
            raise ValueError(f"merge_: targets[{i}] is on {target.device}, targets[0] on {device}; "
                             "backend 'triton' takes one device")  # fmt: skip
    count, pooled = len(weights), dict(zip(moments[::2], moments[1::2], strict=True))
    table = _Table([keep, *weights, *(moment_weights or weights)])
    for i, target in enumerate(targets):
        own = [sources[n * len(targets) + i] for n in range(count)]
        rows = own[0].shape[0] if target.dim() else None
        head, rest = (target[:rows], target[rows:]) if target.dim() else (target, target[None][1:])
        if fill and not math.isnan(fill[i]) and rest.numel():
            table.add_fill(table.line(rest), fill[i], count)
        if not head.numel() or i in pooled.values():
            continue
        if i in pooled:
            j = pooled[i]
            others = [sources[n * len(targets) + j] for n in range(count)]
            variance = targets[j][:rows] if target.dim() else targets[j]
            table.add("moments", table.line(head), table.lines(own))
            table.add("moments", table.line(variance), table.lines(others), tiles=False)
        else:
            table.add(_rule(target, own), table.line(head), table.lines(own))
    _launch(table, count, keep != 0, device)


def _rule(target: Tensor, sources: list[Tensor]) -> str:
    if not target.is_floating_point():
        return "largest"
    double = any(t.dtype == torch.float64 for t in (target, *sources))
    return "average64" if double else "average"


def _launch(table: _Table, lists: int, kept: bool, device: torch.device) -> None:
    if table.tiles:
        numbers: Any = torch.tensor(table.numbers, dtype=torch.int64, device="cpu")
        if device.type == "cuda":
            numbers = numbers.pin_memory().to(device, non_blocking=True)
        with torch.cuda.device_of(numbers):
            merge_kernel[(min(table.tiles, MAX_PROGRAMS),)](
                numbers, table.entries, table.tiles, N=lists, KEPT=kept, TILE=TILE,
                num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    for target, copied in table.write_back:
        target.copy_(copied)
