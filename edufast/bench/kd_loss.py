"""kd_loss compared with eager PyTorch, torch.compile, Liger-Kernel and the machine's limits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edufast.bench.logits import DTYPES, Contest, benchmark
from edufast.bench.timing import Candidate, buffer_sets
from edufast.ops import ClassSlices, kd_loss, kd_loss_and_grad
from edufast.ops.backends import available_backends

TEMPERATURE, ALPHA = 4.0, 0.3
ROWS = {
    10: 1024,
    100: 1024,
    1000: 1024,
    21841: 64,
    131072: 16,
}  # by number of classes; limits the memory


@dataclass(frozen=True)
class Shape:
    """One case of the benchmark.

    Attributes:
        rows: B, of a batch.
        classes: C, of the student.
        teachers: K.
        dtype: of all logits, a key of ``DTYPES``.
        weighting: "mean": every teacher knows all classes; "routed": the classes are split among
            the teachers, and the owner of its label teaches each row.
    """

    rows: int
    classes: int
    teachers: int
    dtype: str
    weighting: str

    @property
    def columns(self) -> int:
        """Logits of one teacher per row."""
        return self.classes // self.teachers if self.weighting == "routed" else self.classes

    @property
    def read_columns(self) -> int:
        """Teacher logits per row that the loss has to read."""
        return self.columns * (1 if self.weighting == "routed" else self.teachers)

    @property
    def bytes(self) -> int:
        """Bytes to move at least: the student's logits and gradient, and the teachers' logits."""
        return self.rows * (2 * self.classes + self.read_columns) * DTYPES[self.dtype].itemsize

    @property
    def exponentials(self) -> int:
        """At least one for each logit read: those at T = 1 are powers of those at T = 4."""
        return self.rows * (self.classes + self.read_columns)


@dataclass
class Batch:
    """Inputs of one call.

    Attributes:
        student: (B, C) logits that require gradients.
        teachers: K tensors of logits, (B, C) or, routed, (B, C // K).
        labels: (B,) int64.
        owner: (B,) int64, the teacher whose slice of the classes contains the label.
    """

    student: Tensor
    teachers: list[Tensor]
    labels: Tensor
    owner: Tensor


def grid(quick: bool) -> list[Shape]:
    """The shapes to measure."""
    if quick:
        return [
            Shape(128, 100, 3, "fp32", "mean"),
            Shape(1024, 1000, 4, "fp32", "mean"),
            Shape(1024, 1000, 4, "bf16", "routed"),
            Shape(8, 131072, 2, "fp32", "mean"),
        ]
    return [Shape(128, 100, 3, "fp32", "mean")] + [
        Shape(ROWS[classes], classes, teachers, dtype, weighting)
        for classes in ROWS
        for teachers in (1, 2, 4, 8)
        for dtype in DTYPES
        for weighting in ("mean", "routed")
    ]


def batch(shape: Shape, device: str) -> Batch:
    """Random inputs of a shape."""
    dtype = DTYPES[shape.dtype]
    # If K does not divide C, labels beyond the last slice would have no owner.
    labels = torch.randint(shape.columns * shape.teachers, (shape.rows,)) % shape.classes
    logits = [
        (torch.randn(shape.rows, n) * 3).to(device, dtype)
        for n in [shape.classes] + [shape.columns] * shape.teachers
    ]
    return Batch(
        logits[0].requires_grad_(),
        logits[1:],
        labels.to(device),
        (labels // shape.columns).to(device),
    )


# --- alternatives, as one would write them in PyTorch -------------------------------------------


def mean_loss(student: Tensor, teachers: list[Tensor], labels: Tensor, owner: Tensor) -> Tensor:
    """alpha CE + (1 - alpha) T² times the mean KL divergence from the teachers."""
    z = student.float()
    log_p = F.log_softmax(z / TEMPERATURE, 1)
    loss = ALPHA * F.cross_entropy(z, labels)
    for t in teachers:
        log_q = F.log_softmax(t.float() / TEMPERATURE, 1)
        kl = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        loss = loss + (1 - ALPHA) / len(teachers) * TEMPERATURE**2 * kl
    return loss


def routed_loss(student: Tensor, teachers: list[Tensor], labels: Tensor, owner: Tensor) -> Tensor:
    """Each teacher's term over its own rows only: the least work for eager PyTorch."""
    loss = ALPHA * F.cross_entropy(student.float(), labels)
    columns = teachers[0].shape[1]
    for k, t in enumerate(teachers):
        rows = (owner == k).nonzero()[:, 0]
        z = student[:, k * columns : (k + 1) * columns].index_select(0, rows).float()
        log_p = F.log_softmax(z / TEMPERATURE, 1)
        log_q = F.log_softmax(t.index_select(0, rows).float() / TEMPERATURE, 1)
        kl = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
        loss = loss + (1 - ALPHA) * TEMPERATURE**2 * kl / len(labels)
    return loss


def masked_loss(student: Tensor, teachers: list[Tensor], labels: Tensor, owner: Tensor) -> Tensor:
    """All rows with a mask: a compiler cannot plan for shapes that depend on the data."""
    z = student.float()
    loss = ALPHA * F.cross_entropy(z, labels)
    columns = teachers[0].shape[1]
    for k, t in enumerate(teachers):
        log_p = F.log_softmax(z[:, k * columns : (k + 1) * columns] / TEMPERATURE, 1)
        log_q = F.log_softmax(t.float() / TEMPERATURE, 1)
        kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
        loss = loss + (1 - ALPHA) * TEMPERATURE**2 * (kl * (owner == k)).mean()
    return loss


def liger_loss(student: Tensor, teachers: list[Tensor], labels: Tensor, owner: Tensor) -> Tensor:
    """For one teacher, Liger-Kernel's KL divergence, which takes probabilities, not logits."""
    from liger_kernel.transformers import LigerKLDIVLoss  # type: ignore[import-not-found]

    z = student.float()
    log_p = F.log_softmax(z / TEMPERATURE, 1)
    q = F.softmax(teachers[0].float() / TEMPERATURE, 1)
    kl = LigerKLDIVLoss(reduction="batchmean")(log_p, q)
    return ALPHA * F.cross_entropy(z, labels) + (1 - ALPHA) * TEMPERATURE**2 * kl


# --- measuring ----------------------------------------------------------------------------------


def candidates(shape: Shape, batches: list[Batch], device: str) -> dict[str, Candidate]:
    """Functions that compute loss and gradient of batch i, by implementation."""
    on_gpu = torch.device(device).type == "cuda"
    eager = mean_loss if shape.weighting == "mean" else routed_loss
    static = mean_loss if shape.weighting == "mean" else masked_loss

    def by(loss: Callable[..., Tensor]) -> Candidate:
        def run(i: int) -> None:
            b = batches[i]
            b.student.grad = None
            loss(b.student, b.teachers, b.labels, b.owner).backward()

        return run

    torch.compiler.reset()
    found: dict[str, Candidate] = {"eager": by(eager), "compile": by(torch.compile(static))}
    if on_gpu:
        tuned = torch.compile(static, mode="max-autotune-no-cudagraphs")
        found["compile max-autotune"] = by(tuned)
        if shape.teachers == 1 and importlib.util.find_spec("liger_kernel"):
            found["liger"] = by(liger_loss)

    n = shape.columns
    edges = [(k * n, (k + 1) * n) for k in range(shape.teachers)]
    slices = ClassSlices.of(edges, shape.classes, device) if shape.weighting == "routed" else None
    ours: dict[str, Any] = {
        "slices": slices,
        "temperature": TEMPERATURE,
        "alpha": ALPHA,
        "weighting": shape.weighting,
    }
    for backend in available_backends(device):
        found |= _ours(backend, batches, by, {**ours, "backend": backend})
    return found


def _ours(
    backend: str,
    batches: list[Batch],
    by: Callable[[Callable[..., Tensor]], Candidate],
    arguments: dict[str, Any],
) -> dict[str, Candidate]:
    def loss(z: Tensor, teachers: list[Tensor], y: Tensor, _: Tensor) -> Tensor:
        return kd_loss(z, teachers, y, **arguments)

    def loss_and_grad(i: int) -> object:
        b = batches[i]
        return kd_loss_and_grad(b.student, b.teachers, b.labels, **arguments)

    return {backend: by(loss), f"{backend} loss_and_grad": loss_and_grad}


def contest(shape: Shape, device: str) -> Contest:
    """Between the candidates, for inputs of a shape."""
    sets = buffer_sets(shape.bytes, device)
    batches = [batch(shape, device) for _ in range(sets)]

    def release() -> None:
        batches[0].student.grad = None

    implementations = candidates(shape, batches, device)
    return Contest(implementations, shape.bytes, shape.exponentials, sets, release)


def title(result: dict[str, Any]) -> str:
    """Of a contest: B x C, K, type of the logits, weights of the teachers."""
    shape = f"{result['rows']} x {result['classes']}, {result['teachers']}"
    return f"{shape}, {result['dtype']}, {result['weighting']}"


BENCHMARK = benchmark(
    "kd_loss",
    "The loss of several teachers, with its gradient (B x C, K, type, weights)",
    table="kd_loss: loss and gradient",
    first="B x C, K, logits, weights",
    rivals=("eager", "compile", "liger"),
    grid=grid,
    title=title,
    contest=contest,
)
