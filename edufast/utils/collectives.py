"""Tensors of all ranks: gathered, summed, averaged. With one process they are left as they are.

A global batch is spread over N ranks, rank r has its rows r, r + N, ... Each rank computes the
loss of the whole batch from the gathered outputs, and N times the gradient of its own rows; the
mean of the parameters' gradients over the ranks is then the gradient of that loss. So whatever a
loss does (relations between rows, weights of a batch, a memory), N ranks compute what one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edufast.utils.ranks import own_rows, size, together


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """All rows (total, ...) of a batch, in their order, from this rank's ``rows`` (n, ...).

    Its gradient is N times that of this rank's rows.
    """
    return rows if size() == 1 else _gather(rows, total)


def gather_columns(parts: Sequence[Tensor], total: int) -> list[Tensor]:
    """:func:`gather_rows` of several (n, C_k) of one dtype, in a single operation."""
    if size() == 1:
        return list(parts)
    gathered = gather_rows(torch.cat(list(parts), 1), total)
    return list(gathered.split([part.shape[1] for part in parts], 1))


def gather_group(rows: Tensor, own: slice, count: int, group: slice, total: int) -> Tensor:
    """All rows of a group that are consecutive in the batch, from this rank's ``rows`` of it.

    Args:
        rows: (m, ...).
        own: where they are among this rank's ``count`` rows.
        count: of this rank's rows.
        group: where the group is among all rows.
        total: of all rows.
    """
    if size() == 1:
        return rows
    spread = rows.new_zeros(count, *rows.shape[1:])
    spread[own] = rows
    return gather_rows(spread, total)[group]


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over the ranks; so is its gradient."""
    return tensor if size() == 1 else _sum(tensor)


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their mean over the ranks, in one operation for each dtype.

    They are the same ones on all ranks, in the same order.
    """
    if size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for alike in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        with together():
            dist.all_reduce(flat)
        flat /= size()
        parts = flat.split([tensor.numel() for tensor in alike])
        for tensor, part in zip(alike, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the first rank."""
    if size() > 1:
        with together():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def share_random_state(device: torch.device) -> None:
    """Give torch's random number generators the state that the first rank's have: what a training
    draws for the whole batch is then the same on all ranks."""
    if size() == 1:
        return
    state = torch.get_rng_state()
    broadcast_([state])
    torch.set_rng_state(state)
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device).to(device)
        broadcast_([state])
        torch.cuda.set_rng_state(state.cpu(), device)


# Operators, which torch.compile calls without looking inside.


@torch.library.custom_op("edufast::gather_rows", mutates_args=())
def _gather(rows: Tensor, total: int) -> Tensor:
    most = -(-total // size())
    own = rows.new_zeros(most, *rows.shape[1:])
    own[: len(rows)] = rows
    everyone = rows.new_empty(size() * most, *rows.shape[1:])
    with together():
        dist.all_gather(list(everyone.chunk(size())), own)
    # Rows that fill up a rank's last one are the last of all.
    return everyone.unflatten(0, (size(), most)).transpose(0, 1).flatten(0, 1)[:total].contiguous()


@_gather.register_fake
def _(rows: Tensor, total: int) -> Tensor:
    return rows.new_empty(total, *rows.shape[1:])


def _scatter(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient[own_rows()] * size(), None


_gather.register_autograd(_scatter)


@torch.library.custom_op("edufast::all_sum", mutates_args=())
def _sum(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()
    with together():
        dist.all_reduce(total)
    return total


@_sum.register_fake
def _(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _sum_gradients(context: Any, gradient: Tensor) -> Tensor:
    return all_sum(gradient)


_sum.register_autograd(_sum_gradients)
