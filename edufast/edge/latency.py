"""How long an exported file takes for one image on one thread, in its own runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # without torch
    from edufast.edge.parity import Run

RUNS = 50


@dataclass(frozen=True)
class Latency:
    """Of one image on one thread, in milliseconds.

    Attributes:
        median_ms, p95_ms: of the runs after the first.
        load_ms: from the file to its first answer, with the runtime in memory.
    """

    median_ms: float
    p95_ms: float
    load_ms: float


def measure_torch(run: Run, images: NDArray[Any], runs: int = RUNS) -> Latency:
    """:func:`measure_latency` of a model in PyTorch, which gets one thread meanwhile."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure_latency(lambda: run, images, runs)
    finally:
        torch.set_num_threads(threads)


def measure_latency(load: Callable[[], Run], images: NDArray[Any], runs: int = RUNS) -> Latency:
    """Load a file by ``load``, run it on the first of ``images``, and ``runs`` times more on one of
    them after the other: a program with early exits takes longer for some."""
    started = time.perf_counter()
    run = load()
    run(images[:1])
    loading = time.perf_counter() - started
    seconds = []
    for i in range(runs):
        image = images[i % len(images) :][:1]
        started = time.perf_counter()
        run(image)
        seconds.append(time.perf_counter() - started)
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    return Latency(1000 * median.item(), 1000 * p95.item(), 1000 * loading)
