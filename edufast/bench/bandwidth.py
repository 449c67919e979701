"""Every operator's kernels beside a copy of as many bytes: in CUDA graphs, from cold memory.

``python -m edufast.bench.bandwidth FOLDER`` adds to FOLDER/bandwidth.jsonl what is not in it yet;
with ``--dry``, tiny problems on the CPU, so that a mistake is found before a GPU's time is spent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edufast.bench import merge as merge_bench
from edufast.bench.kd_loss import ALPHA, TEMPERATURE, liger_loss, mean_loss
from edufast.bench.lines import Lines, command
from edufast.bench.replays import host_seconds_per_call, seconds_per_call
from edufast.bench.timing import Candidate
from edufast.ops import MergePlan, dist_loss, kd_loss, kd_loss_and_grad, min_norm_weights
from edufast.ops.backends import available_backends

FILE = "bandwidth.jsonl"


@dataclass(frozen=True)
class Scale:
    """How large the problems are.

    Attributes:
        device: where they are.
        set_bytes: of the smallest buffer set, where the number of rows is not given.
        total_bytes: of all sets together: larger than any cache.
        classes, teachers: of kd_loss.
        compiled: (classes, teachers) that torch.compile is measured at, too.
        latency: (rows, classes, teachers) of problems that are bound by latency.
        models: of merge.
        seconds: for each measurement.
    """

    device: str
    set_bytes: int
    total_bytes: int
    classes: tuple[int, ...]
    teachers: tuple[int, ...]
    compiled: tuple[tuple[int, int], ...]
    latency: tuple[tuple[int, int, int], ...]
    models: tuple[str, ...]
    seconds: float


GPU = Scale(
    device="cuda",
    set_bytes=64 << 20,
    total_bytes=512 << 20,
    classes=(1000, 4096, 8192, 21841, 32768, 50257, 131072),
    teachers=(1, 2, 4, 8),
    compiled=((1000, 4), (4096, 2), (32768, 2), (131072, 1)),
    latency=((128, 100, 3), (1024, 100, 3), (1024, 1000, 4)),
    models=("resnet50", "vit_base"),
    seconds=0.05,
)
DRY = Scale(
    device="cpu",
    set_bytes=1 << 12,
    total_bytes=1 << 13,
    classes=(10, 33),
    teachers=(1, 3),
    compiled=(),
    latency=((4, 10, 3),),
    models=("resnet20",),
    seconds=0.001,
)


# --- problems -----------------------------------------------------------------------------------


@dataclass
class Logits:
    """Buffer set of a loss."""

    student: Tensor  # (B, C), requires a gradient
    teachers: list[Tensor]
    labels: Tensor


def _logits(rows: int, classes: int, teachers: int, scale: Scale) -> list[Logits]:
    """In bf16, with normal deviation 3."""
    size = 2 * rows * classes * (teachers + 2)
    found = []
    for _ in range(max(2, -(-scale.total_bytes // size))):
        z, *t = (
            (3 * torch.randn(rows, classes, device=scale.device)).bfloat16()
            for _ in range(teachers + 1)
        )
        labels = torch.randint(classes, (rows,), device=scale.device)
        found.append(Logits(z.requires_grad_(), t, labels))
    return found


def _rows(classes: int, tensors: int, scale: Scale) -> int:
    return max(1, scale.set_bytes // (2 * classes * tensors))


def _by_autograd(loss: Callable[[Logits], Tensor], sets: list[Logits]) -> Candidate:
    def run(i: int) -> None:
        sets[i].student.grad = None
        loss(sets[i]).backward()

    return run


# --- measuring ----------------------------------------------------------------------------------


def _beside_a_copy(
    candidates: Mapping[str, Candidate], bytes_: int, sets: int, scale: Scale
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """For each candidate, what measures it. The copy is measured again beside each one."""
    half = bytes_ // 512 * 256  # both halves aligned: else a copy takes thrice as long
    buffers = [torch.empty(2, half, dtype=torch.uint8, device=scale.device) for _ in range(sets)]

    def measured(candidate: Candidate) -> dict[str, Any]:
        ours = seconds_per_call(candidate, sets, scale.device, scale.seconds)
        copy = seconds_per_call(
            lambda i: buffers[i][0].copy_(buffers[i][1]), sets, scale.device, scale.seconds
        )
        return {
            "us": ours * 1e6,
            "TB/s": bytes_ / ours / 1e12,
            "of_copy": copy / ours,
            "copy_us": copy * 1e6,
        }

    for name, candidate in candidates.items():
        yield name, lambda candidate=candidate: measured(candidate)  # type: ignore[misc]


def _kd(
    rows: int,
    classes: int,
    teachers: int,
    backends: list[str],
    others: bool,
    lines: Lines,
    scale: Scale,
) -> None:
    title = f"kd {rows}x{classes} K={teachers} bf16"
    sets = _logits(rows, classes, teachers, scale)
    numbers: dict[str, Any] = {"temperature": TEMPERATURE, "alpha": ALPHA}
    candidates: dict[str, Candidate] = {}
    for backend in backends:

        def alone(i: int, backend: str = backend) -> None:
            s = sets[i]
            kd_loss_and_grad(s.student, s.teachers, s.labels, backend=backend, **numbers)

        def loss(s: Logits, backend: str = backend) -> Tensor:
            return kd_loss(s.student, s.teachers, s.labels, backend=backend, **numbers)

        candidates[backend] = alone
        candidates[f"{backend} autograd"] = _by_autograd(loss, sets)
    peers: dict[str, Callable[..., Tensor]] = {}
    if others:
        torch.compiler.reset()
        peers["compile"] = torch.compile(mean_loss)
    if others and teachers == 1 and importlib.util.find_spec("liger_kernel"):
        peers["liger"] = liger_loss
    for name, peer in peers.items():
        candidates[f"{name} autograd"] = _by_autograd(
            lambda s, peer=peer: peer(s.student, s.teachers, s.labels, s.labels),  # type: ignore[misc]
            sets,
        )
    bytes_ = 2 * rows * classes * (teachers + 2)
    for name, measured in _beside_a_copy(candidates, bytes_, len(sets), scale):
        lines.measure(f"{title} {name}", measured)


def _host(
    rows: int, classes: int, teachers: int, backends: list[str], lines: Lines, scale: Scale
) -> None:
    s = _logits(rows, classes, teachers, scale)[0]
    for backend in backends:

        def host(backend: str = backend) -> dict[str, Any]:
            def call(_: int) -> object:
                return kd_loss_and_grad(s.student, s.teachers, s.labels, backend=backend)

            return {"host_us": host_seconds_per_call(call, scale.device) * 1e6}

        lines.measure(f"kd {rows}x{classes} K={teachers} bf16 {backend} host", host)


def _dist(rows: int, classes: int, backends: list[str], lines: Lines, scale: Scale) -> None:
    sets = _logits(rows, classes, 1, scale)

    def candidate(backend: str) -> Candidate:
        return _by_autograd(lambda s: dist_loss(s.student, *s.teachers, backend=backend), sets)

    candidates = {f"dist {backend} autograd": candidate(backend) for backend in backends}
    found = _beside_a_copy(candidates, 6 * rows * classes, len(sets), scale)
    for name, measured in found:
        lines.measure(f"{name} {rows}x{classes} bf16", measured)


def _min_norm(
    rows: int, classes: int, teachers: int, backends: list[str], lines: Lines, scale: Scale
) -> None:
    sets = _logits(rows, classes, teachers, scale)

    def candidate(backend: str) -> Candidate:
        return lambda i: min_norm_weights(sets[i].student, sets[i].teachers, backend=backend)

    candidates = {f"min_norm {backend}": candidate(backend) for backend in backends}
    found = _beside_a_copy(candidates, 2 * (teachers + 1) * rows * classes, len(sets), scale)
    for name, measured in found:
        lines.measure(f"{name} {rows}x{classes} K={teachers} bf16", measured)


def _dist_and_min_norm(backends: list[str], lines: Lines, scale: Scale) -> None:
    for classes in (scale.classes[0], scale.classes[-1]):
        _dist(_rows(classes, 3, scale), classes, backends, lines, scale)
        _min_norm(_rows(classes, 5, scale), classes, 4, backends, lines, scale)


def _merge(
    model: str, lists: int, keep: float, dtype: torch.dtype, scale: Scale
) -> tuple[dict[str, Candidate], int, int]:
    """Candidates, bytes and number of buffer sets."""
    shapes = merge_bench.shapes(model)
    elements = sum(shape.numel() for shape in shapes)
    bytes_ = dtype.itemsize * elements * (lists + 1 + (keep != 0))

    def tensors() -> list[Tensor]:
        return [torch.rand(s, device=scale.device).to(dtype) for s in shapes]

    sets = max(2, -(-scale.total_bytes // bytes_))
    targets = [tensors() for _ in range(sets)]
    sources = [[tensors() for _ in range(lists)] for _ in range(sets)]
    plans = [MergePlan(t, s) for t, s in zip(targets, sources, strict=True)]
    case = merge_bench.Case(model, lists, keep, False)
    candidates: dict[str, Candidate] = {
        "merge": lambda i: plans[i](keep=keep),
        "foreach": lambda i: merge_bench.foreach(case, targets[i], sources[i]),
    }
    return candidates, bytes_, sets


def _kd_all(backends: list[str], others: bool, lines: Lines, scale: Scale) -> None:
    for rows, classes, teachers in scale.latency:
        _kd(rows, classes, teachers, backends, False, lines, scale)
        _host(rows, classes, teachers, backends, lines, scale)
    for classes in scale.classes:
        for teachers in scale.teachers:
            rows = _rows(classes, teachers + 2, scale)
            compiled = others and (classes, teachers) in scale.compiled
            _kd(rows, classes, teachers, backends, compiled, lines, scale)
            if scale.device == "cuda":
                torch.cuda.empty_cache()


def _merge_all(lines: Lines, scale: Scale) -> None:
    for model in scale.models:
        for lists, keep in ((1, 0.0), (1, merge_bench.DECAY), (4, 0.0)):
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                operation = merge_bench.Case(model, lists, keep, False).operation
                with torch.no_grad():
                    found = _beside_a_copy(*_merge(model, lists, keep, dtype, scale), scale)
                    for candidate, measured in found:
                        lines.measure(f"{candidate} {model} {operation} {name}", measured)


def run(lines: Lines, scale: Scale) -> None:
    """Measure what ``lines`` has not yet; what takes long to compile comes last."""
    built, *compiled = available_backends(scale.device)
    _kd_all([built], False, lines, scale)
    _merge_all(lines, scale)
    _dist_and_min_norm([built], lines, scale)
    _dist_and_min_norm(compiled, lines, scale)
    _kd_all(compiled, True, lines, scale)


# --- showing ------------------------------------------------------------------------------------


def table(lines: Lines) -> str:
    """Ratios to the copy that was measured alongside, a line for each measurement."""
    rows = [(r["name"], r["us"], r["of_copy"]) for r in lines if "of_copy" in r]
    width = max((len(name) for name, *_ in rows), default=0)
    return "\n".join(f"{name:{width}} {us:10.1f} us {share:7.1%}" for name, us, share in rows)


if __name__ == "__main__":
    command("Bandwidth of every operator.", FILE, run, (GPU, DRY), table)
