"""What there is to measure, in the order in which ``edufast bench all`` does."""

from __future__ import annotations

from typing import Any

from edufast.bench import augment, dist_loss, export, kd_loss, merge, min_norm, train
from edufast.bench.benchmark import Benchmark

BENCHMARKS: tuple[Benchmark[Any], ...] = (
    kd_loss.BENCHMARK,
    dist_loss.BENCHMARK,
    min_norm.BENCHMARK,
    merge.BENCHMARK,
    augment.BENCHMARK,
    train.BENCHMARK,
    export.BENCHMARK,
)
