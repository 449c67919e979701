"""Benchmarks of operators on logits: PyTorch's implementations, floors, measuring, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edufast.bench.benchmark import Benchmark, Report
from edufast.bench.contests import Said, contests_plot, contests_table
from edufast.bench.timing import Candidate, measure, peak_extra_bytes
from edufast.ops import kd_loss_and_grad

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CAPTION = (
    "Times as multiples of the floor, the larger of copying as many bytes and of computing one "
    "exponential a logit."
)
_NOTE = (
    "floor: the larger of the times for copying the same bytes and for one exponential per logit, "
    "both measured in this run; extra MB: peak memory of a call beyond that before it."
)


@dataclass(frozen=True)
class Setting:
    """How contests are measured.

    Attributes:
        device: "cpu" or a CUDA device.
        seconds: for each candidate, about.
        exponential: seconds for one, on all threads.
    """

    device: str
    seconds: float
    exponential: float

    @classmethod
    def of(cls, quick: bool, device: str) -> Setting:
        """Seeds PyTorch and measures an exponential."""
        torch.manual_seed(0)
        seconds = 0.4 if quick else 1.0
        return cls(device, seconds, _exponential_seconds(device, seconds))


@dataclass(frozen=True)
class Contest:
    """What implementations are measured with.

    Attributes:
        candidates: by name; PyTorch's are "eager" and "compile".
        bytes: to read and to write at least.
        exponentials: to compute at least.
        sets: number of inputs that the candidates rotate through.
        release: frees results that inputs still hold, before a call's memory is measured.
    """

    candidates: Mapping[str, Candidate]
    bytes: int
    exponentials: int
    sets: int
    release: Callable[[], None] = lambda: None

    def measured(self, setting: Setting) -> dict[str, Any]:
        """Times in seconds, and how they compare with PyTorch's and with the floor."""
        device = setting.device
        timings = measure(
            {**self.candidates, "copy": copying(self.bytes, self.sets, device)},
            device=device,
            sets=self.sets,
            seconds=setting.seconds,
        )
        copy = timings.pop("copy").median
        exponentials = self.exponentials * setting.exponential
        floor = max(copy, exponentials)
        eager, compiled = timings["eager"].median, timings["compile"].median
        return {
            "bytes": self.bytes,
            "copy": copy,
            "exponentials": exponentials,
            "floor": floor,
            "results": {
                name: {
                    **asdict(timing),
                    "speedup_over_eager": eager / timing.median,
                    "speedup_over_compile": compiled / timing.median,
                    "speedup_over_best": min(eager, compiled) / timing.median,
                    "times_floor": timing.median / floor,
                    "extra_bytes": self._extra_bytes(name, device),
                }
                for name, timing in timings.items()
            },
        }

    def _extra_bytes(self, name: str, device: str) -> int | None:
        self.release()
        return peak_extra_bytes(self.candidates[name], device)


def copying(bytes_: int, sets: int, device: str) -> Candidate:
    """Copies: half of ``bytes_`` are read and half written."""
    buffers = [torch.empty(2, bytes_ // 2, dtype=torch.uint8, device=device) for _ in range(sets)]
    return lambda i: buffers[i][0].copy_(buffers[i][1])


def _exponential_seconds(device: str, seconds: float) -> float:
    """Seconds per exponential on all threads, inputs in cache: the faster of torch.exp and ours.

    Ours is the time per logit of cross-entropy alone: an exponential, a maximum and a product.
    """
    logits = torch.randn(512, 1000, device=device)
    labels = torch.zeros(512, dtype=torch.int64, device=device)
    out = torch.empty_like(logits)
    candidates: dict[str, Candidate] = {
        "torch.exp": lambda _: torch.exp(logits, out=out),
        "ours": lambda _: kd_loss_and_grad(logits, [logits], labels, alpha=1.0),
    }
    timings = measure(candidates, device=device, sets=1, seconds=seconds)
    return min(t.median for t in timings.values()) / logits.numel()


def benchmark(
    name: str,
    heading: str,
    *,
    table: str,
    first: str,
    rivals: tuple[str, ...],
    grid: Callable[[bool], Sequence[Any]],
    title: Said,
    contest: Callable[[Any, str], Contest],
) -> Benchmark[Any]:
    """A benchmark of an operator on logits.

    Args:
        name, heading, rivals, title: of the benchmark, see
            :class:`edufast.bench.benchmark.Benchmark`.
        table: heading of its table.
        first: head of the column of contests.
        grid: the shapes to measure, dataclasses; quick: fewer.
        contest: for a shape and a device.
    """

    def measurer(quick: bool, device: str, _: Report) -> Callable[[Any], dict[str, Any]]:
        setting = Setting.of(quick, device)
        return lambda shape: contest(shape, device).measured(setting)

    def illustrate(folder: Path, _: Any, results: Sequence[dict[str, Any]]) -> None:
        contests_plot(folder / f"{name}.png", results, title, "times_floor", "time / floor")

    return Benchmark(
        name,
        heading,
        _CAPTION,
        rivals=rivals,
        cases=lambda quick, _: grid(quick),
        known=asdict,
        title=title,
        measurer=measurer,
        shown=lambda results: [contests_table(table, first, results, title, _COLUMNS), _NOTE],
        illustrate=illustrate,
    )


def _extra_megabytes(numbers: dict[str, Any]) -> str:
    extra = numbers["extra_bytes"]
    return "" if extra is None else f"{extra / 1e6:.1f}"


_COLUMNS = {
    "x\neager": "{speedup_over_eager:.1f}".format_map,
    "x\ncompile": "{speedup_over_compile:.1f}".format_map,
    "x\nfloor": "{times_floor:.1f}".format_map,
    "extra\nMB": _extra_megabytes,
}
