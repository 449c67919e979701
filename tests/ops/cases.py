"""Problems for the backends of kd_loss, their fp64 truth, and how close an answer has to be.

Every function takes the backend or the device, so that the tests of all backends share them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edufast.ops import kd_loss

DIVERGENCES = ("forward_kl", "reverse_kl", "js", "dkd")
WEIGHTINGS = ("mean", "routed", "entropy", "confidence", "given", "given_rows")
SLICES = ("all", "disjoint", "overlapping", "lists")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One problem. The defaults are dyadic: exact in the operator's fp32 parameters."""

    rows: int = 6
    classes: int = 23
    teachers: int = 3
    slices: str = "all"
    dtype: torch.dtype = torch.float32
    teacher_dtypes: tuple[torch.dtype, ...] = ()  # cycled; empty: like the student
    divergence: str = "forward_kl"
    divergence_params: tuple[float, ...] | None = None
    weighting: str = "mean"
    temperature: float | tuple[float, ...] = 4.0
    alpha: float = 0.25
    label_smoothing: float = 0.0
    ignored: int = 1  # rows with ignore_index
    reduction: str = "mean"
    teacher_grad: bool = False
    scale: float = 3.0  # standard deviation of the logits
    seed: int = 0

    def but(self, **changes: Any) -> Case:
        return replace(self, **changes)


@dataclass
class Inputs:
    student: Tensor
    teachers: list[Tensor]
    labels: Tensor
    arguments: dict[str, Any]

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another type, as leaves."""
        arguments = dict(self.arguments)
        return Inputs(
            self.student.detach().to(dtype),
            [t.detach().to(dtype) for t in self.teachers],
            self.labels,
            arguments,
        )


@dataclass
class Outcome:
    loss: Tensor
    grads: list[Tensor]  # of the student, then of the teachers if asked for


def slices_of(kind: str, classes: int, teachers: int, generator: torch.Generator) -> list[Any]:
    """Class slices that together cover what ``kind`` says."""
    edges = [classes * k // teachers for k in range(teachers + 1)]
    if kind == "disjoint":
        return [(edges[k], max(edges[k + 1], edges[k] + 1)) for k in range(teachers)]
    if kind == "overlapping":
        return [(edges[k] // 2, max(edges[k + 1], edges[k] // 2 + 1)) for k in range(teachers)]
    sizes = [max(1, classes * (k + 1) // (teachers + 1)) for k in range(teachers)]
    return [torch.randperm(classes, generator=generator)[:n].tolist() for n in sizes]


def inputs(case: Case, device: str = "cpu") -> Inputs:
    """The problem's tensors, the same numbers on every device."""
    generator = torch.Generator().manual_seed(case.seed)

    def logits(classes: int, dtype: torch.dtype) -> Tensor:
        values = torch.randn(case.rows, classes, generator=generator, dtype=torch.float64)
        return (values * case.scale).to(dtype).to(device)

    slices = None
    sizes = [case.classes] * case.teachers
    if case.slices != "all":
        slices = slices_of(case.slices, case.classes, case.teachers, generator)
        sizes = [s[1] - s[0] if isinstance(s, tuple) else len(s) for s in slices]
    types = case.teacher_dtypes or (case.dtype,)
    labels = torch.randint(case.classes, (case.rows,), generator=generator)
    labels[: case.ignored] = -100
    weighting: Any = case.weighting
    if case.weighting.startswith("given"):
        rows = (case.rows,) if case.weighting == "given_rows" else ()
        weighting = torch.rand(*rows, case.teachers, generator=generator).to(device)
    return Inputs(
        logits(case.classes, case.dtype),
        [logits(n, types[k % len(types)]) for k, n in enumerate(sizes)],
        labels.to(device),
        {
            "slices": slices,
            "temperature": case.temperature,
            "alpha": case.alpha,
            "weighting": weighting,
            "divergence": case.divergence,
            "divergence_params": case.divergence_params,
            "label_smoothing": case.label_smoothing,
            "reduction": case.reduction,
            "teacher_grad": case.teacher_grad,
        },
    )


def evaluate(x: Inputs, backend: str, upstream: Tensor | None = None) -> Outcome:
    """Loss and gradients of fresh leaves for an upstream gradient (None: ones)."""
    student = x.student.detach().requires_grad_()
    teachers = [t.detach().requires_grad_(x.arguments["teacher_grad"]) for t in x.teachers]
    loss = kd_loss(student, teachers, x.labels, backend=backend, **x.arguments)
    wanted = [student, *(t for t in teachers if t.requires_grad)]
    if upstream is None:
        upstream = torch.ones_like(loss)
    grads = torch.autograd.grad(loss, wanted, upstream.to(loss), materialize_grads=True)
    return Outcome(loss.detach(), list(grads))


def truth(x: Inputs, upstream: Tensor | None = None) -> Outcome:
    """The reference in fp64, from the very numbers the backend gets."""
    return evaluate(x.to(torch.float64), "reference", upstream)


def assert_accurate(
    x: Inputs, ours: Outcome, exact: Outcome | None = None, upstream: Tensor | None = None
) -> None:
    """As close to the fp64 truth as eager PyTorch in the same type, up to a few roundings."""
    exact = exact or truth(x, upstream)
    eager = evaluate(x, "reference", upstream)
    temperature, unit = _unit(x, upstream)
    _compare("loss", ours.loss, eager.loss, exact.loss, temperature * unit)
    names = ["student", *(f"teachers[{k}]" for k in range(len(x.teachers)))]
    for name, a, b, c in zip(names, ours.grads, eager.grads, exact.grads, strict=False):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        _compare(f"gradient of {name}", a, b, c, unit)


def _unit(x: Inputs, upstream: Tensor | None) -> tuple[float, float]:
    """T, and the size of the terms that cancel in a gradient, T (p - q) and T p (log p - log q)."""
    temperature = x.arguments["temperature"]
    temperature = max(temperature) if isinstance(temperature, tuple) else temperature
    logits = [t[t.isfinite()].abs().max().item() for t in (x.student, *x.teachers) if t.numel()]
    unit = max(temperature, *logits)
    if x.arguments["divergence"] == "dkd":
        unit *= sum(x.arguments["divergence_params"] or (1.0, 8.0))
    if x.arguments["reduction"] == "mean":
        unit /= max(1, int((x.labels != -100).sum()))
    return temperature, unit * (1.0 if upstream is None else upstream.abs().max().item())


def _compare(name: str, ours: Tensor, eager: Tensor, exact: Tensor, unit: float) -> None:
    exact = exact.double()
    finite = torch.isfinite(exact)
    same = (ours.double() == exact) | (torch.isnan(ours) & torch.isnan(exact))
    assert bool((same | finite).all()), f"{name}: {ours} where {exact} was expected"
    error, eager_error = (
        ((t.double() - exact)[finite].abs().max().item() if finite.any() else 0.0)
        for t in (ours, eager)
    )
    size = exact[finite].abs().max().item() if finite.any() else 0.0
    # The sums are fp32 whatever the logits; only what is returned has the logits' type.
    sums = torch.finfo(torch.float64 if ours.dtype == torch.float64 else torch.float32).eps
    allowed = eager_error + 4 * torch.finfo(ours.dtype).eps * size + 2 * sums * unit
    assert error <= allowed, (
        f"{name}: error {error:.3g}, eager PyTorch's {eager_error:.3g}, allowed {allowed:.3g}"
    )


def masks(classes: int) -> dict[str, tuple[Iterable[int], Iterable[int]]]:
    """Classes of a row that are -inf in the student, and in its first teacher; the label is 5."""
    others = [c for c in range(classes) if c != 5]
    return {
        "teacher": ([], [0, 3]),
        "student": ([0, 3], []),
        "both": ([0, 3], [0, 3]),
        "teacher row": ([], range(classes)),
        "student row": (range(classes), []),
        "all but one": (range(39), range(39)),
        "all but the label": (others, []),
        "label": ([5], [5]),
        "tile": (range(8, 16), range(8)),
    }


def masked_by_the_smallest(divergence: str, temperature: float) -> Inputs:
    """Classes that both sides mask by the smallest number of their type: as good as -inf."""
    case = Case(divergence=divergence, temperature=temperature, reduction="none")
    x = inputs(case.but(teacher_grad=True))
    x.labels[1:] = 8
    for t in (x.student, *x.teachers):
        t[:, [3, 7]] = torch.finfo(t.dtype).min
    return x


def far_apart(divergence: str, logit: float, classes: int = 5) -> Inputs:
    """One class is so low on the one side, and the other side is flat: a divergence of ``logit``
    over the number of classes, for "dkd" of the other classes."""
    low, flat = torch.zeros(1, classes), torch.zeros(1, classes)
    low[0, 3] = -logit
    student, teacher = (flat, low) if divergence == "reverse_kl" else (low, flat)
    arguments = {"divergence": divergence, "temperature": 1.0, "alpha": 0.0, "reduction": "none"}
    if divergence == "dkd":
        arguments["divergence_params"] = (0.25, 1.0)
    return Inputs(student, [teacher], torch.tensor([1]), {**arguments, "teacher_grad": False})
