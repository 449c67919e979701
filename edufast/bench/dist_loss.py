"""dist_loss compared with DIST in PyTorch's operators, eager and compiled, and with the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edufast.bench.logits import DTYPES, Contest, benchmark
from edufast.bench.timing import Candidate, buffer_sets
from edufast.ops import dist_loss
from edufast.ops.backends import available_backends

ROWS = {100: 1024, 1000: 1024, 21841: 64, 131072: 16}  # by number of classes; limits the memory


@dataclass(frozen=True)
class Shape:
    """One case of the benchmark.

    Attributes:
        rows: B, of a batch.
        classes: C, of student and teacher.
        dtype: of all logits, a key of ``DTYPES``.
    """

    rows: int
    classes: int
    dtype: str

    @property
    def bytes(self) -> int:
        """Bytes to move at least: both sides' logits, and the gradient."""
        return 3 * self.rows * self.classes * DTYPES[self.dtype].itemsize

    @property
    def exponentials(self) -> int:
        """One for each logit."""
        return 2 * self.rows * self.classes


@dataclass
class Pair:
    """Inputs of one call: logits (B, C). The student's require gradients."""

    student: Tensor
    teacher: Tensor


def grid(quick: bool) -> list[Shape]:
    """The shapes to measure."""
    if quick:
        return [Shape(128, 100, "fp32"), Shape(1024, 1000, "bf16"), Shape(16, 131072, "fp32")]
    return [
        Shape(rows, classes, dtype)
        for classes, rows in [(100, 128), *ROWS.items()]
        for dtype in DTYPES
    ]


def pair(shape: Shape, device: str) -> Pair:
    """Random inputs of a shape."""
    student, teacher = (
        (torch.randn(shape.rows, shape.classes) * 3).to(device, DTYPES[shape.dtype])
        for _ in range(2)
    )
    return Pair(student.requires_grad_(), teacher)


def dist(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST at T = 1 and with both weights 1, as one would write it in PyTorch."""
    p, q = F.softmax(student.float(), 1), F.softmax(teacher.float(), 1)

    def unlike(dim: int) -> Tensor:
        a, b = (x - x.mean(dim, keepdim=True) for x in (p, q))
        return 1 - F.cosine_similarity(a, b, dim).mean()

    return unlike(1) + unlike(0)


def candidates(pairs: list[Pair], device: str) -> dict[str, Candidate]:
    """Functions that compute loss and gradient of pair i, by implementation."""

    def by(loss: Callable[[Tensor, Tensor], Tensor]) -> Candidate:
        def run(i: int) -> None:
            pairs[i].student.grad = None
            loss(pairs[i].student, pairs[i].teacher).backward()

        return run

    torch.compiler.reset()
    ours = {name: by(partial(dist_loss, backend=name)) for name in available_backends(device)}
    return {"eager": by(dist), "compile": by(torch.compile(dist)), **ours}


def contest(shape: Shape, device: str) -> Contest:
    """Between the candidates, for inputs of a shape."""
    sets = buffer_sets(shape.bytes, device)
    pairs = [pair(shape, device) for _ in range(sets)]

    def release() -> None:
        pairs[0].student.grad = None

    return Contest(candidates(pairs, device), shape.bytes, shape.exponentials, sets, release)


def title(result: dict[str, Any]) -> str:
    """Of a contest: B x C, type of the logits."""
    return f"{result['rows']} x {result['classes']}, {result['dtype']}"


BENCHMARK = benchmark(
    "dist_loss",
    "DIST, with its gradient (B x C, type)",
    table="dist_loss: loss and gradient",
    first="B x C, logits",
    rivals=("eager", "compile"),
    grid=grid,
    title=title,
    contest=contest,
)
