"""Latency of a file: what is measured, not how long it takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edufast.edge import latency
from edufast.edge.latency import measure_latency, measure_torch

IMAGE = np.zeros((1, 4, 4, 3), np.uint8)


def test_quantiles_in_milliseconds_over_the_runs_after_the_first(monkeypatch) -> None:
    took = [0.5, *(0.001 * n for n in range(1, 102))]  # seconds: loading, then 101 runs
    clock = iter(np.cumsum([0.0, *(part for each in took for part in (each, 10.0))]).tolist())
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = measure_latency(lambda: lambda image: image, IMAGE, runs=101)
    assert found.median_ms == pytest.approx(51) and found.p95_ms == pytest.approx(96)
    assert found.load_ms == pytest.approx(500)


def test_the_file_is_loaded_once_and_runs_one_image_after_the_other() -> None:
    calls = []

    def load():
        calls.append("loaded")
        return lambda image: calls.append(image.tolist())

    measure_latency(load, np.array([[7], [8]]), runs=3)
    assert calls == ["loaded", [[7]], [[7]], [[8]], [[7]]]


def test_torch_gets_one_thread_meanwhile() -> None:
    before, threads = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        measure_torch(lambda image: threads.append(torch.get_num_threads()), IMAGE, runs=2)
        assert threads == [1] * 3 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
