"""Problems for min_norm_weights and what proves an answer right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edufast.ops import ClassSlices, min_norm_weights
from edufast.ops.reference.min_norm import Gram, Weights, reference_gram, reference_weights
from tests.ops.cases import slices_of
from tests.ops.cuda_emulation.driver import load_operator
from tests.ops.devices import to_gpu


@dataclass(frozen=True)
class Case:
    rows: int = 6
    classes: int = 23
    teachers: int = 3
    slices: str = "all"
    dtype: torch.dtype = torch.float32
    teacher_dtypes: tuple[torch.dtype, ...] = ()  # cycled; empty: like the student
    temperature: float | tuple[float, ...] = 4.0
    scale: float = 3.0  # standard deviation of the logits
    seed: int = 0


def inputs(case: Case, device: str = "cpu") -> tuple[Tensor, list[Tensor], dict]:
    """Student, teachers and the arguments ``slices`` and ``temperature``."""
    generator = torch.Generator().manual_seed(case.seed)
    slices, sizes = None, [case.classes] * case.teachers
    if case.slices != "all":
        slices = slices_of(case.slices, case.classes, case.teachers, generator)
        sizes = [s[1] - s[0] if isinstance(s, tuple) else len(s) for s in slices]
    types = case.teacher_dtypes or (case.dtype,)
    z, *teachers = (
        (torch.randn(case.rows, n, generator=generator, dtype=torch.float64) * case.scale)
        .to(dtype)
        .to(device)
        for n, dtype in zip(
            [case.classes, *sizes],
            [case.dtype, *(types[k % len(types)] for k in range(case.teachers))],
            strict=True,
        )
    )
    return z, teachers, {"slices": slices, "temperature": case.temperature}


def problem(z: Tensor, teachers: list[Tensor], slices: object, temperature: object) -> Gram:
    k = len(teachers)
    named = ClassSlices.of(slices or [(0, z.shape[1])] * k, z.shape[1], z.device)
    many = list(temperature) if isinstance(temperature, tuple) else [float(temperature)] * k
    return Gram(z, teachers, list(named.columns), list(named.starts), many)


def gram_of(p: Gram, backend: str) -> Tensor:
    """The Gram matrix, on the CPU."""
    if backend == "reference":
        return reference_gram(p)
    if backend == "emulated":
        load_operator("min_norm")
        return torch.ops.edufast_emulated.gradient_gram(*p)
    if backend == "cuda":
        p = p._replace(
            student=to_gpu(p.student),
            teachers=[to_gpu(t) for t in p.teachers],
            columns=[c.cuda() for c in p.columns],
        )
    return torch.ops.edufast.gradient_gram(*p).cpu()


def solve(gram: Tensor, cap: float, backend: str) -> Tensor:
    """The weights of the quadratic program, on the CPU."""
    if backend == "reference":
        return reference_weights(Weights(gram, cap))
    if backend == "emulated":
        load_operator("min_norm")
        return torch.ops.edufast_emulated.min_norm_weights(gram, cap)
    if backend == "cuda":
        gram = gram.cuda()
    return torch.ops.edufast.min_norm_weights(gram, cap).cpu()


def weights_of(
    z: Tensor, teachers: list[Tensor], backend: str, cap: float | None = None, **arguments: Any
) -> Tensor:
    """min_norm_weights, on the CPU."""
    if backend == "emulated":
        p = problem(z.detach(), teachers, **{"slices": None, "temperature": 4.0, **arguments})
        return solve(gram_of(p, backend), cap or 1.0, backend)
    if backend == "cuda":
        z, teachers = to_gpu(z.detach()), [to_gpu(t) for t in teachers]
    return min_norm_weights(z, teachers, cap=cap, backend=backend, **arguments).cpu()


def assert_accurate_gram(case: Case, backend: str) -> None:
    z, teachers, arguments = inputs(case)
    exact = reference_gram(problem(z.double(), [t.double() for t in teachers], **arguments))
    ours = gram_of(problem(z, teachers, **arguments), backend)
    # Of g = T (p - q) the error is that of T p and T q, of some eps |logit|; products carry it on.
    norms = exact.diagonal().sqrt()
    temperature = torch.tensor(case.temperature).expand(case.teachers).double()
    errors = 2**-23 * (4 + case.scale) * 2 * temperature * math.sqrt(case.rows)
    allowed = norms[:, None] * errors + errors[:, None] * norms + errors[:, None] * errors
    torch.testing.assert_close(ours, ours.T, rtol=0, atol=0)
    assert ((ours - exact).abs() <= allowed).all(), (ours, exact)


def gap(gram: Tensor, weights: Tensor, cap: float) -> float:
    """How far ``w' gram w / 2`` is above its minimum at most, in units of the largest gradient's.

    By convexity ``f(w) - f(v) <= gradient(w) . (w - v)``; v, where the right side is largest, puts
    the cap on the smallest components of the gradient.
    """
    gram, weights = gram.double().cpu(), weights.double().cpu()
    slope = gram @ weights / gram.diagonal().max().clamp_min(1e-300)
    left, best = 1.0, torch.zeros_like(weights)
    for i in slope.argsort():
        best[i] = min(cap, left)
        left -= best[i].item()
    return (slope @ (weights - best)).item()


def assert_optimal(gram: Tensor, weights: Tensor, cap: float, tolerance: float) -> None:
    assert weights.dtype == torch.float32 and weights.shape == gram.shape[:1]
    assert weights.min() >= 0 and weights.max() <= cap + 1e-6
    assert abs(weights.double().sum().item() - 1) < 1e-5
    assert gap(gram, weights, cap) <= tolerance
