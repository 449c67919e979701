"""Timing that is robust on a busy machine: interleaved rounds, medians, cold buffers."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

import edufast

Candidate = Callable[[int], object]  # called with the number of the buffer set to use


@dataclass(frozen=True)
class Timing:
    """Seconds per call.

    Attributes:
        median: of all calls.
        low, high: first and third quartile.
    """

    median: float
    low: float
    high: float


def last_level_cache(device: str) -> int:
    """Size in bytes of the largest cache of a device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [
        int(text[:-1]) << {"K": 10, "M": 20}[text[-1]]
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if (text := path.read_text("utf-8").strip())
    ]
    return max(sizes, default=32 << 20)


def buffer_sets(bytes_each: int, device: str) -> int:
    """How many sets of inputs to rotate through, so that none is in the cache when it is used."""
    return max(2, min(64, -(-2 * last_level_cache(device) // max(bytes_each, 1))))


def measure(
    candidates: Mapping[str, Candidate], *, device: str, sets: int, seconds: float
) -> dict[str, Timing]:
    """Time the candidates against each other, for about ``seconds`` each.

    Rounds are interleaved, so that a slow phase of the machine affects all candidates, and each has
    an order of its own: what runs after a candidate that fills the caches is slower. Every call
    uses the least recently used buffer set. Calls shorter than half a millisecond are timed in
    groups. On CUDA, time is measured on the device, between events.
    """
    clock = _cuda_seconds if torch.device(device).type == "cuda" else _cpu_seconds
    repeats, rounds = {}, 5
    for name, candidate in candidates.items():
        for i in range(3):
            candidate(i % sets)
        once = min(clock(candidate, i, 1, sets) for i in range(3))
        repeats[name] = max(1, round(5e-4 / once))
        rounds = max(rounds, min(200, round(seconds / (once * repeats[name]))))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    turn, names, orders = 0, list(candidates), random.Random(0)
    for i in range(rounds):
        orders.shuffle(names)
        for name in names:
            if sum(samples[name]) * repeats[name] < seconds or i < 5:
                samples[name].append(clock(candidates[name], turn, repeats[name], sets))
                turn += repeats[name]
    return {name: Timing(*_quartiles(times)) for name, times in samples.items()}


def _quartiles(times: list[float]) -> tuple[float, float, float]:
    low, median, high = quantiles(times, n=4, method="inclusive")
    return median, low, high


def _cpu_seconds(candidate: Candidate, start: int, repeats: int, sets: int) -> float:
    begin = time.perf_counter()
    for i in range(start, start + repeats):
        candidate(i % sets)
    return (time.perf_counter() - begin) / repeats


def _cuda_seconds(candidate: Candidate, start: int, repeats: int, sets: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for i in range(start, start + repeats):
        candidate(i % sets)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def peak_extra_bytes(candidate: Candidate, device: str) -> int | None:
    """Peak memory in bytes during a call, beyond what was held before it; not for a first call.

    On CUDA it is measured by PyTorch's allocator, on the CPU for the process (on Linux; elsewhere
    it is None).
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        candidate(0)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that malloc has kept could be reused unseen
        Path("/proc/self/clear_refs").write_text("5", "utf-8")  # resets VmHWM
        before = _resident("VmRSS")
        candidate(0)
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {field}")


@contextmanager
def threads_for(threads: int | None) -> Iterator[None]:
    """Within it PyTorch has so many CPU threads; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine(device: str, threads: int | None = None) -> dict[str, Any]:
    """What a reader needs to know about what was measured, and where.

    Args:
        device: "cpu" or a CUDA device.
        threads: that the measurement took; None: PyTorch's.
    """
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    description = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "edufast": edufast.__version__,
        "commit": commit(Path(edufast.__file__).parents[1]),
    }
    if torch.device(device).type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def commit(checkout: Path) -> str | None:
    """Of a git checkout, with "-dirty-" and a hash of what has been changed in its code since;
    None: it is none."""
    if not (checkout / ".git").exists():
        return None
    try:
        named = _git(checkout, "rev-parse", "--short", "HEAD").decode().strip()
        changes = _git(checkout, "diff", "--binary", "HEAD", "--", "edufast", "kernels", "csrc")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{named}-dirty-{hashlib.sha256(changes).hexdigest()[:7]}" if changes else named


def _git(checkout: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout
