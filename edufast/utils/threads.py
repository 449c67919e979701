"""How many threads this process may use, and how they wait for each other."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_threads() -> int:
    """Processors that this process may use: those it is bound to, or fewer where a control group
    (a container's) has a quota of processor time, which is rounded up."""
    return max(1, math.ceil(min([len(os.sched_getaffinity(0)), *_quotas()])))


def configure_openmp() -> None:
    """Set what OpenMP reads when torch is imported, where the user has not set it.

    GNU's threads spin 300,000 times before they sleep. On processors that are busy otherwise, they
    take the time of the thread they wait for: two beside two busy processes trained 25 images a
    second of the 5,000 on idle ones. Those that never spin (OMP_WAIT_POLICY=passive) reach 1,100,
    but only 2,500 on idle processors; with 10,000 turns it is 2,000 and 4,900. And OpenMP counts
    the processors that a process is bound to, but not the quota of its control group.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if any(quota < (os.cpu_count() or 1) for quota in _quotas()):
        os.environ.setdefault("OMP_NUM_THREADS", str(available_threads()))


def _quotas() -> list[float]:
    """Processors' worth of time that the control groups of this process get, of either version."""
    quotas = []
    for line in _lines(_MEMBERSHIP):
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            quotas += [_quota_2(folder / "cpu.max") for folder in _folders(_CGROUPS, path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_1(folder) for folder in _folders(_CGROUPS / "cpu", path)]
    return [quota for quota in quotas if quota is not None]


def _folders(root: Path, path: str) -> list[Path]:
    """Those of a group and all it is in. In a container the path may be the host's, and only the
    root be there."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _quota_2(file: Path) -> float | None:
    quota, period = [*" ".join(_lines(file)).split(), "max", "max"][:2]
    return None if "max" in (quota, period) else int(quota) / int(period)


def _quota_1(folder: Path) -> float | None:
    values = [_lines(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    quota, period = (int(lines[0]) if lines else -1 for lines in values)
    return quota / period if quota > 0 < period else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except OSError:
        return []
