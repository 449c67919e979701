"""Problems for min_norm_weights and what proves an answer right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edufast.ops import ClassSlices
from edufast.ops.reference.min_norm import Gram
from tests.ops.cases import slices_of


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
