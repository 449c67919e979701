"""Timing: interleaved rounds, buffers that rested, medians and quartiles of single calls."""

from __future__ import annotations

import itertools
import subprocess

import pytest
import torch

import edufast
from edufast.bench import timing
from edufast.bench.timing import (
    Timing,
    buffer_sets,
    commit,
    machine,
    measure,
    peak_extra_bytes,
    threads_for,
)


class Clock:
    """Time that passes only while a candidate runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_candidates_take_turns_and_slow_moments_do_not_move_the_median(clock):
    calls = []

    def candidate(name: str, seconds: list[float]):
        pace = itertools.cycle(seconds)

        def run(number: int) -> None:
            calls.append(name)
            clock.now += next(pace)

        return run

    # In binary fractions, so that sums are exact. One call in eight takes a whole second.
    fast = candidate("fast", [2**-9] * 7 + [1.0])
    slow = candidate("slow", [2**-7])
    found = measure({"fast": fast, "slow": slow}, device="cpu", sets=1, seconds=1.0)
    assert found["fast"] == Timing(2**-9, 2**-9, 2**-9)
    assert found["slow"] == Timing(2**-7, 2**-7, 2**-7)
    counted = calls[12:]  # behind three calls to warm up and three to find out how long one takes
    assert calls[:12] == ["fast"] * 6 + ["slow"] * 6
    rounds = {tuple(counted[i : i + 2]) for i in range(0, 10, 2)}  # in changing order
    assert rounds == {("fast", "slow"), ("slow", "fast")}
    # Each stops at its second, but not before five rounds.
    assert counted.count("slow") == 128 and counted.count("fast") < 20


def test_quartiles_show_the_spread(clock):
    pace = itertools.cycle([0.25, 0.5, 0.75, 1.0, 1.25])

    def run(number: int) -> None:
        clock.now += next(pace)

    found = measure({"it": run}, device="cpu", sets=1, seconds=0.0)["it"]
    assert found == Timing(median=0.75, low=0.5, high=1.0)


def test_short_calls_are_timed_in_groups_and_every_call_takes_the_next_buffers(clock):
    numbers = []

    def run(number: int) -> None:
        numbers.append(number)
        clock.now += 2**-17  # 66 of them make half a millisecond

    found = measure({"short": run}, device="cpu", sets=3, seconds=2**-9)["short"]
    assert found == Timing(2**-17, 2**-17, 2**-17)
    counted = numbers[6:]
    assert len(counted) == 5 * 66 and counted == [i % 3 for i in range(5 * 66)]


@pytest.mark.parametrize(
    ("bytes_each", "sets"),
    [(1 << 30, 2), (1 << 20, 2), (600_000, 4), (100_000, 21), (1, 64), (0, 64)],
)
def test_buffer_sets_are_twice_the_cache_within_bounds(bytes_each, sets, monkeypatch):
    monkeypatch.setattr(timing, "last_level_cache", lambda device: 1 << 20)
    assert buffer_sets(bytes_each, "cpu") == sets


def test_the_last_level_cache_of_this_machine_has_a_size():
    assert timing.last_level_cache("cpu") >= 1 << 18


def test_extra_memory_is_what_a_call_holds_at_its_peak():
    held = torch.empty(0)

    def temporary(number: int) -> None:
        torch.ones(64 << 20, dtype=torch.uint8)

    def keeping(number: int) -> None:
        nonlocal held
        held = torch.ones(32 << 20, dtype=torch.uint8)

    extra = [peak_extra_bytes(c, "cpu") for c in (lambda i: None, temporary, keeping)]
    if None in extra:
        pytest.skip("this system does not say how much memory a process holds")
    nothing, most, kept = extra
    assert nothing < 8 << 20
    assert 60 << 20 < most < 80 << 20
    assert 28 << 20 < kept < 48 << 20


def test_extra_memory_is_unknown_where_the_system_does_not_report_it(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(timing.Path, "write_text", refuse)
    assert peak_extra_bytes(lambda i: None, "cpu") is None


def test_the_machine_is_described_with_what_numbers_depend_on():
    described = machine("cpu")
    assert described["threads"] == torch.get_num_threads()
    assert described["torch"] == torch.__version__ and described["device"] == "cpu"
    assert described["cpu"] and "gpu" not in described
    assert machine("cpu", 3)["threads"] == 3
    assert described["edufast"] == edufast.__version__


def test_a_checkout_is_described_by_its_commit(tmp_path):
    assert commit(tmp_path) is None

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code = tmp_path / "edufast" / "file"
    code.parent.mkdir()
    code.write_text("1")
    (tmp_path / "text").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    named = commit(tmp_path)
    assert named and git("rev-parse", "HEAD").startswith(named)
    (tmp_path / "text").write_text("2")  # such as results that are written into the checkout
    assert commit(tmp_path) == named
    code.write_text("2")
    second = commit(tmp_path)
    assert second and second.startswith(f"{named}-dirty-") and commit(tmp_path) == second
    code.write_text("3")
    assert commit(tmp_path) not in (named, second)


def test_threads_are_for_a_while():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads_for(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with threads_for(None):
        assert torch.get_num_threads() == before
