"""Measuring contestants against each other: in turns, so that a slow moment meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from edufast.utils._torch_private import fresh_compiler_cache


class Contestant(Protocol):
    """A training loop that the contest drives."""

    def batches(self) -> Iterator[Any]:
        """Batches without end."""

    def step(self, batch: Any) -> Tensor:
        """Train one step on a batch; returns its loss."""


@dataclass
class Score:
    """What one contestant did.

    Attributes:
        first: seconds of the first step: compiling, choosing algorithms, allocating.
        speeds: images per second of each block.
        waited: share of the time of each block that the loop waited for data.
    """

    first: float = 0.0
    speeds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def result(self, batch_size: int) -> dict[str, Any]:
        """For JSON. ``startup`` is what the first step took beyond a usual one, in seconds."""
        speed = median(self.speeds)
        return {
            "images_per_second": speed,
            "speeds": self.speeds,
            "data_wait": median(self.waited),
            "startup": max(0.0, self.first - batch_size / speed),
        }


class Runner:
    """Drives one contestant over its own endless batches."""

    def __init__(self, contestant: Contestant, batch_size: int, device: torch.device) -> None:
        self._contestant, self._batch_size, self._device = contestant, batch_size, device
        self._batches = contestant.batches()
        self.score = Score()

    def run(self, steps: int) -> tuple[float, float]:
        """Train; returns seconds in all and seconds waited for data."""
        waited, started = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - asked
            self._contestant.step(batch)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started, waited

    def warm_up(self, seconds: float) -> int:
        """Two steps that do not count; returns how many make a block of about ``seconds``."""
        self.score.first, _ = self.run(1)
        once, _ = self.run(1)
        return max(1, round(seconds / once))

    def block(self, steps: int) -> None:
        """A block that counts."""
        seconds, waited = self.run(steps)
        self.score.speeds.append(steps * self._batch_size / seconds)
        self.score.waited.append(waited / seconds)


def compete(
    contestants: Mapping[str, Callable[[], Contestant]],
    batch_size: int,
    device: torch.device,
    *,
    seconds: float,
    rounds: int,
    tell: Callable[[str], None],
) -> dict[str, Score]:
    """Warm every contestant up, then let them train in turns, a block of steps each.

    Args:
        contestants: what makes them, by name.
        seconds: about how long a block takes; a block is at least one step.
        rounds: blocks of each.
        tell: hears what is going on.
    """
    runners: dict[str, Runner] = {}
    steps: dict[str, int] = {}
    for name, make in contestants.items():
        tell(f"{name}: first steps")
        with fresh_compiler_cache():  # nobody finds what another, or an earlier run, compiled
            runners[name] = Runner(make(), batch_size, device)
            steps[name] = runners[name].warm_up(seconds)
    for number in range(rounds):
        for name, runner in runners.items():
            tell(f"{name}: round {number + 1} of {rounds}")
            runner.block(steps[name])
    return {name: runner.score for name, runner in runners.items()}
