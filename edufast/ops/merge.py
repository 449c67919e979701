"""Merging lists of tensors: copy, grow, average, in one pass."""

from __future__ import annotations

import itertools
import math
import operator
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edufast.ops._library import checked, register, register_in_place
from edufast.ops.backends import select_backend
from edufast.ops.reference.merge import Merge, dense, reference
from edufast.utils._torch_private import (
    as_constant,
    below_in_place,
    has_tangent,
    in_forward_mode,
    redispatch_below_in_place,
)

# --- the operator: in place, without a derivative -----------------------------------------------


def _place(name: str, i: int, count: int) -> str:
    """How users write item i of the targets, or of the sources one list after the other."""
    return f"{name}[{i}]" if name == "targets" else f"{name}[{i // count}][{i % count}]"


def _refuse_derivatives(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    backward, forward = torch.is_grad_enabled(), in_forward_mode()
    if not (backward or forward):
        return
    for name, tensors in (("targets", targets), ("sources", sources)):
        for i, tensor in enumerate(tensors):
            if backward and tensor.requires_grad:
                raise RuntimeError(
                    f"merge_: {_place(name, i, len(targets))} requires grad, and merge_ has no "
                    "derivative; call it within torch.no_grad()"
                )
            if forward and has_tangent(tensor):
                raise RuntimeError(
                    f"merge_: {_place(name, i, len(targets))} has a tangent, and merge_ has no "
                    "derivative; call it outside of forward mode"
                )


def _in_place(keyset: Any, targets: list[Tensor], sources: list[Tensor], *rest: Any) -> None:
    _refuse_derivatives(targets, sources)
    torch.autograd.graph.increment_version(targets)
    operator = torch.ops.edufast.merge_.default
    redispatch_below_in_place(operator, keyset, targets, sources, *rest)


def _fake(*arguments: Any) -> None:
    """Writes nothing, for nothing is there to be written; so all tensors have to be like that."""
    m = Merge(*arguments)
    named = {f"targets[{i}]": t for i, t in enumerate(m.targets)}
    named |= {f"sources[{i}]": t for i, t in enumerate(m.sources)}
    meta = [name for name, t in named.items() if t.device.type == "meta"]
    real = [name for name in named if name not in meta]
    if meta and real:
        raise ValueError(
            f"merge_: {meta[0]} is on meta and {real[0]} on {named[real[0]].device}; expected meta "
            "tensors throughout, or none"
        )


register(torch.ops.edufast.merge_.default, _fake)
register_in_place(torch.ops.edufast.merge_.default, _in_place)


def _run(backend: str, m: Merge) -> None:
    if backend == "reference":
        if torch.compiler.is_compiling():  # nothing has memory yet, in which overlaps would show
            raise ValueError(
                "merge_: backend is 'reference', which is not traced by torch.compile; expected "
                "another, which gives the same bits"
            )
        reference(*m)
    elif backend == "triton":
        from edufast.kernels.merge import merge_ as triton_merge_

        triton_merge_(*m)
    elif torch.compiler.is_compiling():
        torch.ops.edufast.merge_.default(*m)
    else:  # "cpp" and "cuda" are one operator on two devices
        # Below _in_place, which would turn the lists into Python's and back: half of the time.
        with below_in_place():
            dense(torch.ops.edufast.merge_.default, *m)
        torch.autograd.graph.increment_version(m.targets)


# --- public functions -------------------------------------------------------------------------

Sources = Iterable[Tensor] | Iterable[Iterable[Tensor]]
Fill = float | Sequence[float | None] | None


def merge_(
    targets: Iterable[Tensor],
    sources: Sources,
    weights: Sequence[float] | None = None,
    *,
    keep: float = 0.0,
    fill: Fill = None,
    moments: Sequence[tuple[int, int]] = (),
    counts: Sequence[float] | None = None,
    backend: str | None = None,
) -> None:
    """Write into every target a weighted sum of itself and its sources, all in one pass.

    ``targets[i] = keep * targets[i] + sum_n weights[n] * sources[n][i]``

    Copy: one list of sources. Average: N lists. Exponential moving average: ``keep=decay``.
    Growth: sources with fewer rows than the target, and ``fill``. Optimizer state: more tensors in
    the lists. One launch per CUDA device; on the CPU one parallel region.

    Args:
        targets: tensors of float32, bfloat16, float16, float64, any integer type or bool, with any
            strides; tensors that are not dense in memory, or whose sources have other strides,
            cost an extra copy.
        sources: one list like ``targets``, or N of them. A source may have fewer rows (dimension
            0) than its target: the first rows are merged. Floating point types convert freely;
            other types must equal the target's.
        weights: N finite numbers; None: ``(1 - keep) / N`` each.
        keep: weight of the target. With 0 it is not read.
        fill: value of the rows a source does not have; None: they stay as they are. One for all
            targets, or one for each.
        moments: index pairs (mean, variance), such as BatchNorm's running statistics, that become
            the moments of the mixture of the distributions they describe:
            ``mean = sum w_n mean_n``, ``var = sum w_n (var_n + (mean_n - mean)^2)``.
        counts: samples behind each source's moments, N positive numbers: moments are weighted by
            ``(1 - keep) * counts / sum(counts)``; None: by ``weights``, which then sum to
            ``1 - keep``.
        backend: "reference", "cpp", "cuda", "triton"; None: the best for the device.

    Sums are formed in float32, in float64 where one of the tensors is, in the order written above
    and without fused multiply-adds: all backends and any number of threads give the same bits.
    Moments are formed in float64. Integers and booleans have no average: they become the largest
    source (with one list: a copy), whatever the weights.

    Targets of low precision are rounded at every call: in bfloat16 a moving average with
    ``keep=0.999`` stands still at a quarter of the way. Keep averages in float32, whatever the
    sources are, as :class:`edufast.models.averaging.ExponentialMovingAverage` does.

    A target may be its own source. Any other overlap of memory is refused.

    Raises:
        ValueError: lists, shapes, dtypes or devices do not fit or memory overlaps; the message
            names the pair.
        RuntimeError: grad mode is on and a tensor requires grad.
    """
    targets, lists, keep = _tensors("targets", targets), _lists(sources), _keep(keep)
    m = Merge(
        targets,
        _flat(targets, lists),
        _weights(weights, keep, len(lists)),
        keep,
        _fill(fill, len(targets)),
        _pairs(moments),
        _moment_weights(counts, keep, len(lists)),
    )
    if not m.targets:
        return
    _refuse_derivatives(m.targets, m.sources)
    with torch.no_grad():
        _run(select_backend(backend, m.targets[0]), m)


class MergePlan:
    """A merge that is repeated, such as a moving average after every step: checked once.

    Takes the arguments of :func:`merge_`; those that are numbers come with each call. For lists of
    small tensors a call costs a fifth of :func:`merge_`, whose time goes into the lists. If a
    tensor has since moved to other memory (``parameter.data = ...``), it is noticed, and
    checked again.

    Raises: as :func:`merge_`, when constructed and when called.
    """

    def __init__(
        self,
        targets: Iterable[Tensor],
        sources: Sources,
        *,
        fill: Fill = None,
        moments: Sequence[tuple[int, int]] = (),
        counts: Sequence[float] | None = None,
        backend: str | None = None,
    ) -> None:
        targets, lists = _tensors("targets", targets), _lists(sources)
        counts = (
            None
            if counts is None
            else _numbers("counts", counts, len(lists), "one for each list of sources")
        )
        self._arguments = (tuple(targets), lists, fill, moments, counts, backend)
        self._targets = tuple(targets)
        self._sources = _flat(targets, lists)
        self._count = len(lists)
        self._counts = counts
        self._backend = select_backend(backend, targets[0]) if self._targets else "reference"
        self._fill = _fill(fill, len(self._targets))
        self._moments = _pairs(moments)
        self._number = None
        if self._backend in ("cpp", "cuda"):
            _refuse_negated(self._targets, self._sources)
            self._number = dense(
                torch.ops.edufast.merge_plan.default,
                self._targets, self._sources, self._count, self._fill, self._moments,
            )  # fmt: skip
            weakref.finalize(self, torch.ops.edufast.merge_plan_free.default, self._number)

    def __call__(self, weights: Sequence[float] | None = None, *, keep: float = 0.0) -> None:
        """Merge with these weights; see :func:`merge_`.

        While torch.compile traces, the call becomes the one operator that :func:`merge_` is: a
        graph would not see which tensors the plan stands for.
        """
        _refuse_derivatives(self._targets, self._sources)
        keep = _keep(keep)
        weights = _weights(weights, keep, self._count)
        moment_weights = _moment_weights(self._counts, keep, self._count)
        if self._number is None or torch.compiler.is_compiling():
            m = Merge(
                list(self._targets), self._sources, weights, keep, self._fill,
                self._moments, moment_weights,
            )  # fmt: skip
            with torch.no_grad():
                _run(self._backend, m)
            return
        run = torch.ops.edufast.merge_plan_run.default
        checked(run, self._number, weights, keep, moment_weights)
        torch.autograd.graph.increment_version(self._targets)

    def __reduce__(self) -> Any:
        """A copy is a plan for the copied tensors."""
        return _plan, self._arguments


def _refuse_negated(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Views whose numbers are negated when they are read: torch would hand over copies."""
    for name, tensors in (("targets", targets), ("sources", sources)):
        for i, tensor in enumerate(tensors):
            if tensor.is_neg():
                raise ValueError(
                    f"merge_: {_place(name, i, len(targets))} is a view of negated numbers, as "
                    "x.conj().imag; expected a tensor of its own, as by resolve_neg()"
                )


def _plan(targets: Any, lists: Any, fill: Any, moments: Any, counts: Any, backend: Any) -> Any:
    return MergePlan(targets, lists, fill=fill, moments=moments, counts=counts, backend=backend)


def _lists(sources: Sources) -> list[list[Tensor]]:
    lists = _list("sources", sources)
    if not lists or isinstance(lists[0], Tensor):
        return [lists]
    return [_tensors(f"sources[{n}]", tensors) for n, tensors in enumerate(lists)]


def _list(name: str, values: Any) -> list[Any]:
    """Of anything that lists tensors, such as ``model.parameters()``."""
    if isinstance(values, (Tensor, Mapping, str)) or not isinstance(values, Iterable):
        raise TypeError(
            f"merge_: {name} is of type {type(values).__name__}; expected a list of tensors"
        )
    return list(values)


def _tensors(name: str, values: Any) -> list[Tensor]:
    """A list whose first item stands for the others: lists are long, and looking takes time."""
    found = _list(name, values)
    if found and not isinstance(found[0], Tensor):
        raise TypeError(
            f"merge_: {name}[0] is of type {type(found[0]).__name__}; expected a tensor"
        )
    return found


def _flat(targets: Sequence[Tensor], lists: list[list[Tensor]]) -> list[Tensor]:
    for n, tensors in enumerate(lists):
        if len(tensors) != len(targets):
            raise ValueError(
                f"merge_: sources[{n}] has {len(tensors)} tensors; expected {len(targets)}, one "
                "for each of the targets"
            )
    return list(itertools.chain.from_iterable(lists))


def _number(name: str, x: Any) -> float:
    """In a traced graph a constant: torch (2.14) errs in what it computes from one that changes."""
    if torch.compiler.is_compiling():
        return as_constant(x)
    try:
        return float(x + 0)  # no text
    except OverflowError:  # an int; printing it might take thousands of digits
        raise ValueError(f"merge_: {name} is beyond 1e308; expected a smaller number") from None
    except (TypeError, ValueError):
        raise TypeError(f"merge_: {name} is {x!r}; expected a number") from None


def _keep(x: Any) -> float:
    number = _number("keep", x)
    if not torch.compiler.is_compiling() and not math.isfinite(number):
        raise ValueError(f"merge_: keep is {number}; expected a finite number")
    return number


def _numbers(name: str, values: Any, count: int, whose: str) -> list[float]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"merge_: {name} is {values!r}; expected {count} numbers, {whose}")
    found = [_number(f"{name}[{n}]", x) for n, x in enumerate(values)]
    if len(found) != count:
        raise ValueError(f"merge_: {name} has {len(found)} numbers; expected {count}, {whose}")
    return found


def _weights(weights: Iterable[float] | None, keep: float, count: int) -> list[float]:
    if weights is None:
        return [(1.0 - keep) / count] * count
    return _numbers("weights", weights, count, "one for each list of sources")


def _moment_weights(counts: Iterable[float] | None, keep: float, count: int) -> list[float]:
    if counts is None:
        return []
    found = _numbers("counts", counts, count, "one for each list of sources")
    if not all(0 < c < math.inf for c in found):
        raise ValueError(
            f"merge_: counts is {found}; expected {count} numbers above 0, one for each list of "
            "sources"
        )
    found = [c / max(found) for c in found]  # whose sum does not overflow
    return [(1.0 - keep) * c / sum(found) for c in found]


def _fill(fill: Fill, count: int) -> list[float]:
    if fill is None:
        return []
    if isinstance(fill, (list, tuple)):
        return [math.nan if x is None else _filling(f"fill[{n}]", x) for n, x in enumerate(fill)]
    return [_filling("fill", fill)] * count


def _filling(name: str, value: Any) -> float:
    number = _number(name, value)
    if math.isnan(number):
        raise ValueError(
            f"merge_: {name} is NaN; expected a number, or None to leave rows as they are"
        )
    if isinstance(value, int) and number != value:
        raise ValueError(f"merge_: {name} is {value}; expected a number that float64 holds exactly")
    return number


def _pairs(moments: Any) -> list[int]:
    try:
        found = [operator.index(i) for mean, variance in moments for i in (mean, variance)]
    except (TypeError, ValueError):
        found = [2**63]
    if not all(abs(i) < 2**63 for i in found):
        raise TypeError(
            f"merge_: moments is {moments!r}; expected pairs of positions, (mean, variance)"
        )
    return found
