"""augment compared with the same in PyTorch's operators, and with a plain copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table

from edufast.bench.benchmark import Benchmark, Report
from edufast.bench.contests import contests_plot, contests_table
from edufast.bench.timing import Candidate, buffer_sets, measure
from edufast.ops import augment
from edufast.ops.backends import available_backends

BATCH, PAD = 128, 4
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.25, 0.3)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One case of the benchmark: a batch of ``BATCH`` square images.

    Attributes:
        size: edge in pixels.
        dtype: of the batch, a key of ``DTYPES``.
    """

    size: int
    dtype: str

    @property
    def bytes(self) -> int:
        """To read and to write at least."""
        return BATCH * self.size**2 * 3 * (1 + DTYPES[self.dtype].itemsize)


def grid(quick: bool) -> list[Case]:
    """The cases to measure."""
    sizes = (32,) if quick else (32, 64, 224)
    return [Case(size, dtype) for size in sizes for dtype in DTYPES]


def title(result: dict[str, Any]) -> str:
    """Of a contest."""
    return f"{BATCH} images of {result['size']} pixels, {result['dtype']}"


def candidates(case: Case, sets: int, device: str) -> dict[str, Candidate]:
    """Functions that make a batch of set i, by implementation."""
    images = torch.randint(256, (sets * BATCH, case.size, case.size, 3), dtype=torch.uint8)
    images = images.to(device)
    order = torch.randperm(sets * BATCH).view(sets, BATCH).to(device)
    views = torch.randint(2 * (2 * PAD + 1) ** 2, (sets, BATCH)).to(device)

    def make(i: int, backend: str) -> object:
        return augment(
            images, order[i], views[i], pad=PAD, flip=True, mean=MEAN, std=STD,
            dtype=DTYPES[case.dtype], backend=backend,
        )  # fmt: skip

    names = {"eager": "reference"} | {backend: backend for backend in available_backends(device)}
    return {name: partial(make, backend=backend) for name, backend in names.items()}


def measurer(quick: bool, device: str, _: Report) -> Callable[[Case], dict[str, Any]]:
    """A function that measures a case; times in seconds."""
    torch.manual_seed(0)
    return partial(_measure_case, device=device, seconds=0.4 if quick else 1.0)


def _measure_case(case: Case, *, device: str, seconds: float) -> dict[str, Any]:
    sets = buffer_sets(case.bytes, device)
    halves = torch.ones(sets, 2, case.bytes // 2, dtype=torch.uint8, device=device)
    implementations = candidates(case, sets, device)
    floor: dict[str, Candidate] = {"copy": lambda i: halves[i, 0].copy_(halves[i, 1])}
    timings = measure(implementations | floor, device=device, sets=sets, seconds=seconds)
    copy = timings.pop("copy").median
    return {
        "bytes": case.bytes,
        "copy": copy,
        "results": {
            name: {
                **asdict(timing),
                "speedup_over_eager": timings["eager"].median / timing.median,
                "copy_bandwidth": copy / timing.median,
            }
            for name, timing in timings.items()
        },
    }


def table(results: Sequence[dict[str, Any]]) -> Table:
    """A line for every case and implementation."""
    columns = {
        "x\neager": "{speedup_over_eager:.1f}".format_map,
        "of a\ncopy": "{copy_bandwidth:.0%}".format_map,
    }
    return contests_table("augment", "batch", results, title, columns)


BENCHMARK = Benchmark(
    "augment",
    "Batches of augmented images",
    "Bandwidth as a share of a copy's.",
    rivals=("eager",),
    cases=lambda quick, _: grid(quick),
    known=asdict,
    title=title,
    measurer=measurer,
    shown=lambda results: [
        table(results),
        "of a copy: bandwidth relative to a copy of as many bytes, measured in this run.",
    ],
    illustrate=lambda folder, _, results: contests_plot(
        folder / "augment.png", results, title, "copy_bandwidth", "share of a copy's bandwidth"
    ),
)
