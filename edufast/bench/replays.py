"""Time of kernels without the host's: calls in CUDA graphs, over buffers larger than the cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from edufast.bench.timing import Candidate


def seconds_per_call(candidate: Candidate, sets: int, device: str, seconds: float = 0.1) -> float:
    """Median time of a call, of those captured in one graph: a call for each buffer set.

    On a CPU, where there are no graphs, the calls are made one after another.

    Args:
        candidate: called with the number of the buffer set.
        sets: number of buffer sets.
        device: "cpu" or a CUDA device.
        seconds: to spend about.
    """
    replay = captured(candidate, sets) if torch.device(device).type == "cuda" else None
    clock = _cpu_seconds if replay is None else _cuda_seconds
    run = replay or (lambda: _call_all(candidate, sets))
    run()
    once = clock(run)
    rounds = max(3, min(50, round(seconds / max(once, 1e-9))))
    return median(clock(run) for _ in range(rounds)) / sets


def captured(candidate: Candidate, sets: int) -> Callable[[], None]:
    """Replays of a graph of a call for each buffer set."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # what is compiled or allocated once is not part of the graph
            _call_all(candidate, sets)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _call_all(candidate, sets)
    replay: Callable[[], None] = graph.replay
    return replay


def host_seconds_per_call(candidate: Candidate, device: str, calls: int = 200) -> float:
    """Time that the host takes for a call, while the device has nothing else to do."""
    for _ in range(3):
        candidate(0)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        candidate(0)
    return (time.perf_counter() - begin) / calls


def _call_all(candidate: Candidate, sets: int) -> None:
    for i in range(sets):
        candidate(i)


def _cpu_seconds(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _cuda_seconds(run: Callable[[], None]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
