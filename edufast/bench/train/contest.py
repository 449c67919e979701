"""Measuring training loops in turns, so that a slow phase of the machine affects all of them."""

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
    """A training loop that can be measured."""

    def batches(self) -> Iterator[Any]:
        """An endless sequence of batches."""

    def step(self, batch: Any) -> Tensor:
        """Train one step on a batch; returns the loss."""


@dataclass
class Score:
    """The measurements of one contestant.

    Attributes:
        first: seconds of the first step, which compiles, chooses algorithms and allocates.
        speeds: images per second of each block.
        waited: share of each block's time that was spent waiting for data.
    """

    first: float = 0.0
    speeds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def result(self, batch_size: int) -> dict[str, Any]:
        """The score for JSON; ``startup`` is the extra time of the first step, in seconds."""
        speed = median(self.speeds)
        return {
            "images_per_second": speed,
            "speeds": self.speeds,
            "data_wait": median(self.waited),
            "startup": max(0.0, self.first - batch_size / speed),
        }


class Runner:
    """Runs one contestant on its own batches."""

    def __init__(self, contestant: Contestant, batch_size: int, device: torch.device) -> None:
        self._contestant, self._batch_size, self._device = contestant, batch_size, device
        self._batches = contestant.batches()
        self.score = Score()

    def run(self, steps: int) -> tuple[float, float]:
        """Train ``steps`` steps; returns the seconds they took and those spent waiting for data."""
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
        """Train two steps that do not count; returns the number of steps in about ``seconds``."""
        self.score.first, _ = self.run(1)
        once, _ = self.run(1)
        return max(1, round(seconds / once))

    def block(self, steps: int) -> None:
        """Train a block of steps and add it to the score."""
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
    report: Callable[[str], None],
) -> dict[str, Score]:
    """Warm up all contestants, then let them train in turns, a block of steps each.

    Args:
        contestants: functions that make them, by name.
        batch_size: images per step.
        device: to wait for at the end of a block.
        seconds: approximate duration of a block, which has at least one step.
        rounds: number of blocks of each.
        report: called with what is being measured.
    """
    runners: dict[str, Runner] = {}
    steps: dict[str, int] = {}
    for name, make in contestants.items():
        report(f"{name}: first steps")
        with fresh_compiler_cache():  # nothing that another loop or an earlier run compiled
            runners[name] = Runner(make(), batch_size, device)
            steps[name] = runners[name].warm_up(seconds)
    for number in range(rounds):
        for name, runner in runners.items():
            report(f"{name}: round {number + 1} of {rounds}")
            runner.block(steps[name])
    return {name: runner.score for name, runner in runners.items()}
