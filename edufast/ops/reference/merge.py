"""The specification of merging: its arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edufast.ops._arguments import tensor
from edufast.ops._library import checked


class Merge(NamedTuple):
    """The arguments of the operator ``edufast::merge_``, in the order of its schema."""

    targets: list[Tensor]
    sources: list[Tensor]  # list after list, one list for each of the weights
    weights: list[float]
    keep: float
    fill: list[float]  # per target, NaN: leave the rows; empty: leave all
    moments: list[int]  # mean, variance, mean, variance ...
    moment_weights: list[float]  # empty: the weights

    def check(self) -> None:
        """Refuse what the operator refuses; tensors on meta, all of them, have nothing to refuse.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        if not all(t.is_meta for t in (*self.targets, *self.sources)):
            dense(torch.ops.edufast.merge_check.default, *self)


def dense(call: Callable[..., Any], targets: Any, sources: Any, *rest: Any) -> Any:
    """``call`` of an operator, where tensors that are not dense are named. They are looked for only
    once it has failed: lists are long."""
    try:
        return checked(call, targets, sources, *rest)
    except RuntimeError:
        for i, x in enumerate(targets):
            tensor(f"merge_: targets[{i}]", x)
        for i, x in enumerate(sources):
            tensor(f"merge_: sources[{i // len(targets)}][{i % len(targets)}]", x)
        raise


def reference(*arguments: Any) -> None:
    """What :func:`edufast.ops.merge_` means, one PyTorch operation after the other; bit for bit."""
    m = Merge(*arguments)
    m.check()
    lists = [m.sources[n * len(m.targets) :][: len(m.targets)] for n in range(len(m.weights))]
    pooled = set(m.moments)
    for mean, variance in zip(m.moments[::2], m.moments[1::2], strict=True):
        _pool(m, mean, variance, lists)
    for i, target in enumerate(m.targets):
        sources = [tensors[i] for tensors in lists]
        head = _rows(target, sources[0])
        if i in pooled:
            pass
        elif target.is_floating_point():
            head.copy_(_average(m.keep, head, m.weights, sources, _accumulator(target, *sources)))
        else:
            head.copy_(torch.stack(sources).amax(0))
        if m.fill and not math.isnan(m.fill[i]) and target.dim():
            target[len(head) :] = m.fill[i]


def _average(
    keep: float, target: Tensor, weights: Sequence[float], sources: Sequence[Tensor], dtype: Any
) -> Tensor:
    terms = [] if keep == 0 else [keep * target.to(dtype)]
    terms += [w * source.to(dtype) for w, source in zip(weights, sources, strict=True)]
    total = terms[0]
    for term in terms[1:]:  # in this order, whatever the backend
        total = total + term
    return total


def _pool(m: Merge, mean: int, variance: int, lists: Sequence[Sequence[Tensor]]) -> None:
    weights = m.moment_weights or m.weights
    means = [tensors[mean].double() for tensors in lists]
    variances = [tensors[variance].double() for tensors in lists]
    old_mean = _rows(m.targets[mean], means[0])
    old_variance = _rows(m.targets[variance], means[0])
    center = _average(m.keep, old_mean, weights, means, torch.float64)
    parts = [(w, a, b) for w, a, b in zip(weights, means, variances, strict=True)]
    if m.keep != 0:
        parts.insert(0, (m.keep, old_mean.double(), old_variance.double()))
    total = torch.zeros_like(center)
    for w, a, b in parts:
        total = total + w * ((a - center) * (a - center)) + w * b
    old_mean.copy_(center)
    old_variance.copy_(total)


def _rows(target: Tensor, source: Tensor) -> Tensor:
    return target[: len(source)] if target.dim() else target


def _accumulator(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
