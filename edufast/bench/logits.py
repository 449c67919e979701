"""What the benchmarks of operators on logits share: floors, measuring, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from edufast.bench.contests import Said, contests_plot, contests_table
from edufast.bench.timing import Candidate, measure, peak_extra_bytes
from edufast.ops import kd_loss_and_grad

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CAPTION = (
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


def shown(
    results: Sequence[dict[str, Any]], heading: str, first: str, title: Said
) -> list[RenderableType]:
    """A line for every contest and implementation, see
    :func:`edufast.bench.contests.contests_table`; and what the columns are."""
    columns = {
        "x\neager": "{speedup_over_eager:.1f}".format_map,
        "x\ncompile": "{speedup_over_compile:.1f}".format_map,
        "x\nfloor": "{times_floor:.1f}".format_map,
        "extra\nMB": _extra_megabytes,
    }
    return [contests_table(heading, first, results, title, columns), _NOTE]


def _extra_megabytes(numbers: dict[str, Any]) -> str:
    extra = numbers["extra_bytes"]
    return "" if extra is None else f"{extra / 1e6:.1f}"


def plotter(name: str, title: Said) -> Callable[[Path, Any, Sequence[dict[str, Any]]], None]:
    """What draws ``<name>.png``: each time as a multiple of the floor."""

    def plot(folder: Path, _: Any, results: Sequence[dict[str, Any]]) -> None:
        contests_plot(folder / f"{name}.png", results, title, "times_floor", "time / floor")

    return plot
