"""Contestants take turns, so that a slow moment of the machine falls on all of them."""

from __future__ import annotations

import torch

from edufast.bench import train
from edufast.bench.train import contest
from edufast.bench.train.contest import Runner, Score, compete


def test_contest_times_everybody_the_same_number_of_blocks(setting):
    messages = []
    scores = compete(
        train.contestants(setting, compiling=False),
        12,
        setting.device,
        seconds=0.01,
        rounds=2,
        report=messages.append,
    )
    assert all(len(score.speeds) == 2 and min(score.speeds) > 0 for score in scores.values())
    turns = [m.partition(": round")[0] for m in messages if ": round" in m]
    assert turns == list(scores) * 2


class Clock:
    """Time that passes only where a contestant lets it."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Paced:
    """A contestant whose first step takes 5 s more than the others; ``data`` s a batch."""

    def __init__(self, clock: Clock, name: str, turns: list[str], *, data: float, step: float):
        self.clock, self.name, self.turns = clock, name, turns
        self.data, self.seconds, self.steps = data, step, 0

    def batches(self):
        while True:
            self.clock.now += self.data
            yield None

    def step(self, batch: None) -> torch.Tensor:
        self.clock.now += self.seconds + (5.0 if self.steps == 0 else 0.0)
        self.steps += 1
        self.turns.append(self.name)
        return torch.zeros(())


def test_contestants_take_turns_in_blocks_of_equal_length(monkeypatch):
    clock, turns = Clock(), []
    monkeypatch.setattr(contest, "time", clock)
    contestants = {
        "slow": lambda: Paced(clock, "slow", turns, data=0.125, step=0.375),
        "fast": lambda: Paced(clock, "fast", turns, data=0.0, step=0.25),
    }
    cpu = torch.device("cpu")
    scores = compete(contestants, 8, cpu, seconds=1.0, rounds=3, report=lambda text: None)
    warm_up, block = ["slow"] * 2 + ["fast"] * 2, ["slow"] * 2 + ["fast"] * 4
    assert turns == warm_up + block * 3
    assert scores["slow"] == Score(first=5.5, speeds=[16.0] * 3, waited=[0.25] * 3)
    assert scores["slow"].result(8) == {
        "images_per_second": 16.0,
        "speeds": [16.0] * 3,
        "data_wait": 0.25,
        "startup": 5.0,
    }
    assert scores["fast"].result(8)["data_wait"] == 0.0


def test_a_result_is_the_median_of_the_blocks():
    score = Score(first=0.1, speeds=[10.0, 1.0, 30.0], waited=[0.5, 0.1, 0.2])
    result = score.result(8)
    assert (result["images_per_second"], result["data_wait"]) == (10.0, 0.2)
    assert result["startup"] == 0.0  # a first step no slower than the others


def test_a_block_has_at_least_one_step(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(contest, "time", clock)
    runner = Runner(Paced(clock, "slow", [], data=0, step=60.0), 8, torch.device("cpu"))
    assert runner.warm_up(seconds=0.5) == 1
