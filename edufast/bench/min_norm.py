"""min_norm_weights compared with PyTorch's operators and SciPy's solver, and with the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edufast.bench.logits import DTYPES, Contest, benchmark
from edufast.bench.timing import Candidate, buffer_sets
from edufast.ops import min_norm_weights
from edufast.ops.backends import available_backends
from edufast.utils.extras import require

TEMPERATURE = 4.0
ROWS = {100: 1024, 1000: 1024, 21841: 64}  # by number of classes; limits the memory


@dataclass(frozen=True)
class Shape:
    """One case of the benchmark.

    Attributes:
        rows: B, of a batch.
        classes: C, of all logits.
        teachers: K.
        dtype: of all logits, a key of ``DTYPES``.
    """

    rows: int
    classes: int
    teachers: int
    dtype: str

    @property
    def exponentials(self) -> int:
        """One for each logit."""
        return self.rows * self.classes * (self.teachers + 1)

    @property
    def bytes(self) -> int:
        """Of all logits, each read once."""
        return self.exponentials * DTYPES[self.dtype].itemsize


def grid(quick: bool) -> list[Shape]:
    """The shapes to measure."""
    if quick:
        return [Shape(128, 100, 3, "fp32"), Shape(1024, 1000, 4, "bf16")]
    return [Shape(128, 100, 3, "fp32")] + [
        Shape(rows, classes, teachers, dtype)
        for classes, rows in ROWS.items()
        for teachers in (2, 4, 8)
        for dtype in DTYPES
    ]


def logits(shape: Shape, device: str) -> list[Tensor]:
    """Random inputs of a shape, the student's first."""
    return [
        (torch.randn(shape.rows, shape.classes) * 3).to(device, DTYPES[shape.dtype])
        for _ in range(shape.teachers + 1)
    ]


# --- alternatives, as one would write them ------------------------------------------------------


def gram(student: Tensor, teachers: list[Tensor]) -> Tensor:
    """(K, K) products of the gradients of the teachers' divergences."""
    p = F.softmax(student.float() / TEMPERATURE, 1)
    gradients = torch.stack(
        [TEMPERATURE * (p - F.softmax(t.float() / TEMPERATURE, 1)) for t in teachers]
    ).flatten(1)
    return gradients @ gradients.T


def solved(products: Tensor) -> Tensor:
    """argmin of ``w' products w`` with w >= 0 and sum w = 1, (K,) on the CPU.

    With a matrix R such that R'R is ``products``, u >= 0 that makes |R u|^2 + (s (sum u - 1))^2
    smallest is a multiple of w, whatever s (Lawson and Hanson 1974, chapter 23).
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    values, vectors = np.linalg.eigh(products.double().cpu().numpy())
    root = np.sqrt(values.clip(0))[:, None] * vectors.T
    scale = np.sqrt(values.clip(0).sum())
    u, _ = nnls(np.vstack([root, np.full_like(root[:1], scale)]), np.append(0 * values, scale))
    return torch.from_numpy(u / u.sum())


# --- measuring ----------------------------------------------------------------------------------


def candidates(inputs: list[list[Tensor]], device: str) -> dict[str, Candidate]:
    """Functions that compute the weights for input i, by implementation."""

    def by(products: Callable[[Tensor, list[Tensor]], Tensor]) -> Candidate:
        return lambda i: solved(products(inputs[i][0], inputs[i][1:]))

    def ours(backend: str) -> Candidate:
        return lambda i: min_norm_weights(
            inputs[i][0], inputs[i][1:], temperature=TEMPERATURE, backend=backend
        )

    torch.compiler.reset()
    found = {"eager": by(gram), "compile": by(torch.compile(gram))}
    return found | {name: ours(name) for name in available_backends(device)}


def contest(shape: Shape, device: str) -> Contest:
    """Between the candidates, for inputs of a shape."""
    require("edufast bench min-norm", "train", "scipy")
    sets = buffer_sets(shape.bytes, device)
    inputs = [logits(shape, device) for _ in range(sets)]
    return Contest(candidates(inputs, device), shape.bytes, shape.exponentials, sets)


def title(result: dict[str, Any]) -> str:
    """Of a contest: B x C, K, type of the logits."""
    return f"{result['rows']} x {result['classes']}, {result['teachers']}, {result['dtype']}"


BENCHMARK = benchmark(
    "min_norm",
    "Weights of several teachers by AEKD (B x C, K, type)",
    table="min_norm_weights",
    first="B x C, K, logits",
    rivals=("eager", "compile"),
    grid=grid,
    title=title,
    contest=contest,
)
