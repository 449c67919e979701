"""Time per call of calls that are made together."""

from __future__ import annotations

import pytest
import torch

from edufast.bench import replays
from edufast.bench.replays import captured, host_seconds_per_call, seconds_per_call


class Clock:
    """Time that passes only while a candidate runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_every_buffer_set_has_its_turn_and_the_time_is_that_of_one_call(monkeypatch):
    clock, calls = Clock(), []
    monkeypatch.setattr(replays, "time", clock)

    def candidate(i: int) -> None:
        calls.append(i)
        clock.now += (i + 1) * 1e-3

    assert seconds_per_call(candidate, 3, "cpu") == pytest.approx(2e-3)
    assert calls == [0, 1, 2] * (len(calls) // 3)
    assert host_seconds_per_call(candidate, "cpu", calls=5) == pytest.approx(1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_a_replay_makes_a_call_for_each_buffer_set():
    sums = [torch.zeros((), device="cuda") for _ in range(3)]
    replay = captured(lambda i: sums[i].add_(1.0), 3)
    before = [s.item() for s in sums]
    replay()
    assert [s.item() for s in sums] == [b + 1 for b in before]
    assert seconds_per_call(lambda i: sums[i].add_(1.0), 3, "cuda", seconds=0.01) > 0
