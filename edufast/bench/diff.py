"""Two sets of results compared: what became slower or faster, and what is noise.

A machine is not as fast today as it was yesterday. Rivals tell how much that matters: they are
measured in turns with EduFast's code, and are the same code in both sets. A change counts where
the ranges of the two measurements (quartiles, or all of few rounds) do not overlap, and where it is
beyond `LEAST` times the square of the largest change of any rival in the benchmark: twice the noise
that was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edufast.bench.benchmark import Benchmark
from edufast.bench.benchmarks import BENCHMARKS
from edufast.bench.results import (
    OURS,
    VARIES,
    Measurement,
    as_text,
    differences,
    measurements,
    read,
)
from edufast.utils.errors import UserError

LEAST = 1.05  # smaller changes are not told
UNLIKE = 1.25  # a rival's change from which on the machine was not in the same state


@dataclass(frozen=True)
class Change:
    """Of one implementation in one contest.

    Attributes:
        benchmark: the benchmark's name.
        before, after: as measured.
        noise: the largest factor, at least 1, by which a rival became slower or faster.
    """

    benchmark: str
    before: Measurement
    after: Measurement
    noise: float

    @property
    def ratio(self) -> float:
        """Of the times; above 1 is slower."""
        return self.after.median / self.before.median

    @property
    def is_regression(self) -> bool:
        """Slower, and not by noise."""
        return self.after.low > self.before.high and self.ratio > LEAST * self.noise**2

    @property
    def is_improvement(self) -> bool:
        """Faster, and not by noise."""
        return self.after.high < self.before.low and 1 / self.ratio > LEAST * self.noise**2


def compare(before: Path, after: Path) -> list[Change]:
    """Of all implementations of EduFast that both folders have measured.

    Raises:
        UserError: a file is damaged, or the folders are of different machines or have nothing in
            common.
    """
    changes: list[Change] = []
    for benchmark in BENCHMARKS:
        files = [benchmark.path(folder) for folder in (before, after)]
        if not all(file.exists() for file in files):
            continue
        earlier, later = (read(file, benchmark.title) for file in files)
        differing = differences(earlier["machine"], later["machine"], VARIES | OURS)
        if differing:
            raise UserError(f"{before} and {after} are not comparable: {differing[0]}")
        changes += _changes(
            benchmark,
            measurements(earlier["results"], benchmark.title),
            measurements(later["results"], benchmark.title),
        )
    if not changes:
        names = ", ".join(f"{b.name}.json" for b in BENCHMARKS)
        raise UserError(
            f"{before} and {after} have no measurement in common; expected one of {names} in both"
        )
    return changes


def _changes(
    benchmark: Benchmark[Any], before: list[Measurement], after: list[Measurement]
) -> list[Change]:
    earlier = {(m.contest, m.name): m for m in before}
    pairs = [(earlier[m.contest, m.name], m) for m in after if (m.contest, m.name) in earlier]
    drifts = [b.median / a.median for a, b in pairs if benchmark.is_rival(a.name)]
    noise = max((max(drift, 1 / drift) for drift in drifts), default=1.0)
    return [Change(benchmark.name, a, b, noise) for a, b in pairs if not benchmark.is_rival(a.name)]


def lines(changes: list[Change]) -> list[str]:
    """A line for every change that counts, the largest first, and one for the others."""
    slower = [c for c in changes if c.is_regression]
    faster = [c for c in changes if c.is_improvement]
    found = [
        f"{word}: {c.benchmark}, {c.before.contest}, {c.before.name}: "
        f"{as_text(c.before.median)} -> {as_text(c.after.median)}, {c.ratio:.2f} times as long"
        for word, some in (("slower", slower), ("faster", faster))
        for c in sorted(some, key=lambda c: c.ratio, reverse=word == "slower")
    ]
    noises = {c.benchmark: c.noise for c in changes}
    for name, noise in noises.items():
        text = f"{name}: rivals changed by up to {noise:.2f} times"
        found.append(text + ("; measure again, beside less load" if noise > UNLIKE else ""))
    within = len(changes) - len(slower) - len(faster)
    return [
        *found,
        f"{len(changes)} compared: {len(slower)} slower, {len(faster)} faster, {within} within "
        "the noise",
    ]
