"""Merging lists of tensors: reference, dispatch, autograd, public functions."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edufast.ops import _library  # noqa: F401  (registers torch.ops.edufast)
from edufast.ops.backends import select_backend


class Merge(NamedTuple):
    """Arguments of the operator ``edufast::merge_``, in its order."""

    targets: list[Tensor]
    sources: list[Tensor]  # list after list, one list for each of the weights
    weights: list[float]
    keep: float
    fill: list[float]  # per target, NaN: leave the rows; empty: leave all
    moments: list[int]  # mean, variance, mean, variance ...
    moment_weights: list[float]  # empty: the weights


# --- reference --------------------------------------------------------------------------------


def reference(*arguments: Any) -> None:
    """What :func:`merge_` means, one PyTorch operation after the other; bit for bit."""
    m = Merge(*arguments)
    _checked(torch.ops.edufast.merge_check.default, *m)
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


# --- dispatch ---------------------------------------------------------------------------------


def _run(backend: str, m: Merge) -> None:
    if backend == "reference":
        reference(*m)
    elif backend == "triton":
        from edufast.kernels.merge import merge_ as triton_merge_

        triton_merge_(*m)
    elif torch.compiler.is_compiling():
        torch.ops.edufast.merge_.default(*m)
    else:  # "cpp" and "cuda" are one operator on two devices
        # Below _in_place, which would turn the lists into Python's and back: half of the time.
        with torch._C._AutoDispatchBelowADInplaceOrView():
            _checked(torch.ops.edufast.merge_.default, *m)
        torch.autograd.graph.increment_version(m.targets)


def _checked(op: Callable[..., Any], *arguments: Any) -> Any:
    """The operators' checks raise RuntimeError; what they find is a wrong value."""
    try:
        return op(*arguments)
    except RuntimeError as error:
        message = str(error).partition("\n")[0]
        if "merge_: " in message:
            raise ValueError(message[message.index("merge_: ") :]) from None
        raise


# --- autograd: an in-place operation without a derivative -----------------------------------------


def _refuse_grad(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensors in (("targets", targets), ("sources", sources)):
        for i, tensor in enumerate(tensors):
            if tensor.requires_grad:
                count = len(targets)
                place = f"[{i}]" if name == "targets" else f"[{i // count}][{i % count}]"
                raise RuntimeError(
                    f"merge_: {name}{place} requires grad, and merge_ has no derivative; call it "
                    "within torch.no_grad()"
                )


def _in_place(keyset: Any, targets: list[Tensor], sources: list[Tensor], *rest: Any) -> None:
    _refuse_grad(targets, sources)
    torch.autograd.graph.increment_version(targets)
    keyset = keyset & torch._C._after_ADInplaceOrView_keyset
    torch.ops.edufast.merge_.default.redispatch(keyset, targets, sources, *rest)


_LIBRARY = torch.library.Library("edufast", "IMPL")
_LIBRARY.impl("merge_", _in_place, "ADInplaceOrView", with_keyset=True)


@torch.library.register_fake("edufast::merge_")
def _fake(*arguments: Any) -> None:
    return None


# --- public functions -------------------------------------------------------------------------

Sources = Sequence[Tensor] | Sequence[Sequence[Tensor]]
Fill = float | Sequence[float | None] | None


def merge_(
    targets: Sequence[Tensor],
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

    A target may be its own source. Any other overlap of memory is refused.

    Raises:
        ValueError: lists, shapes, dtypes or devices do not fit or memory overlaps; the message
            names the pair.
        RuntimeError: grad mode is on and a tensor requires grad.
    """
    lists = _lists(targets, sources)
    m = Merge(
        list(targets),
        _flat(targets, lists),
        _weights(weights, keep, len(lists)),
        float(keep),
        _fill(fill, len(targets)),
        [i for pair in moments for i in pair],
        _moment_weights(counts, keep, len(lists)),
    )
    if not m.targets:
        return
    _refuse_grad(m.targets, m.sources)
    with torch.no_grad():
        _run(select_backend(backend, m.targets[0]), m)


class MergePlan:
    """A merge that is repeated, such as a moving average after every step: checked once.

    Takes the arguments of :func:`merge_`; those that are numbers come with each call. For lists of
    small tensors a call costs a fifth of :func:`merge_`, whose time goes into the lists. A tensor
    that was given other memory since (``parameter.data = ...``) is noticed, and checked again.

    Raises: as :func:`merge_`, when constructed and when called.
    """

    def __init__(
        self,
        targets: Sequence[Tensor],
        sources: Sources,
        *,
        fill: Fill = None,
        moments: Sequence[tuple[int, int]] = (),
        counts: Sequence[float] | None = None,
        backend: str | None = None,
    ) -> None:
        lists = _lists(targets, sources)
        self._arguments = (tuple(targets), lists, fill, tuple(moments), counts, backend)
        self._targets = tuple(targets)
        self._sources = _flat(targets, lists)
        self._count = len(lists)
        self._counts = counts
        self._backend = select_backend(backend, targets[0]) if self._targets else "reference"
        self._fill = _fill(fill, len(self._targets))
        self._moments = [i for pair in moments for i in pair]
        self._number = None
        if self._backend in ("cpp", "cuda"):
            self._number = _checked(
                torch.ops.edufast.merge_plan.default,
                self._targets, self._sources, self._count, self._fill, self._moments,
            )  # fmt: skip
            weakref.finalize(self, torch.ops.edufast.merge_plan_free.default, self._number)

    def __call__(self, weights: Sequence[float] | None = None, *, keep: float = 0.0) -> None:
        """Merge with these weights; see :func:`merge_`. Breaks the graph of torch.compile."""
        if torch.compiler.is_compiling():
            _uncompiled(self, weights, keep)
        else:
            self._merge(weights, keep)

    def _merge(self, weights: Sequence[float] | None, keep: float) -> None:
        _refuse_grad(self._targets, self._sources)
        weights = _weights(weights, keep, self._count)
        moment_weights = _moment_weights(self._counts, keep, self._count)
        if self._number is None:
            m = Merge(
                list(self._targets), self._sources, weights, float(keep), self._fill,
                self._moments, moment_weights,
            )  # fmt: skip
            with torch.no_grad():
                _run(self._backend, m)
            return
        run = torch.ops.edufast.merge_plan_run.default
        _checked(run, self._number, weights, keep, moment_weights)
        torch.autograd.graph.increment_version(self._targets)

    def __reduce__(self) -> Any:
        """A copy is a plan for the copied tensors."""
        return _plan, self._arguments


# A graph does not see which tensors a plan's number stands for.
_uncompiled = torch.compiler.disable(MergePlan._merge)


def _plan(targets: Any, lists: Any, fill: Any, moments: Any, counts: Any, backend: Any) -> Any:
    return MergePlan(targets, lists, fill=fill, moments=moments, counts=counts, backend=backend)


def _lists(targets: Sequence[Tensor], sources: Sources) -> list[list[Tensor]]:
    if not sources or isinstance(sources[0], Tensor):
        return [list(sources)]  # type: ignore[arg-type]
    return [list(tensors) for tensors in sources]


def _flat(targets: Sequence[Tensor], lists: list[list[Tensor]]) -> list[Tensor]:
    for n, tensors in enumerate(lists):
        if len(tensors) != len(targets):
            raise ValueError(
                f"merge_: sources[{n}] has {len(tensors)} tensors; expected {len(targets)}, one "
                "for each of the targets"
            )
    return list(itertools.chain.from_iterable(lists))


def _weights(weights: Sequence[float] | None, keep: float, count: int) -> list[float]:
    if weights is None:
        return [(1.0 - keep) / count] * count
    if len(weights) != count:
        raise ValueError(
            f"merge_: weights has {len(weights)} numbers; expected {count}, one for each list of "
            "sources"
        )
    return [float(w) for w in weights]


def _moment_weights(counts: Sequence[float] | None, keep: float, count: int) -> list[float]:
    if counts is None:
        return []
    if len(counts) != count or not all(0 < c < math.inf for c in counts):
        raise ValueError(
            f"merge_: counts is {list(counts)}; expected {count} numbers above 0, one for each "
            "list of sources"
        )
    return [(1.0 - keep) * c / sum(counts) for c in counts]


def _fill(fill: Fill, count: int) -> list[float]:
    if fill is None:
        return []
    values = [fill] * count if isinstance(fill, (int, float)) else list(fill)
    if any(value is not None and math.isnan(value) for value in values):
        raise ValueError("merge_: fill is NaN; expected numbers, or None to leave rows as they are")
    return [math.nan if value is None else float(value) for value in values]
