"""How long the rest of a run takes: planned seconds at the pace of what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edufast.experiments.remaining import Part, Remaining, in_words
from edufast.utils.event_log import EventLog

PARTS = [Part("teacher 0", 0, 1000, 60.0), Part("education", 0, 2000, 40.0)]


def school(name: str, flops: int, seed: int = 0) -> Any:
    """As far as it is looked at."""
    return SimpleNamespace(
        options=SimpleNamespace(name=name, seed=seed),
        progress=SimpleNamespace(student_flops=flops),
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def logged(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_plan_counts_until_something_was_seen(log):
    remaining = Remaining(PARTS, EventLog(log), clock=lambda: 7.0)
    assert remaining.after_epoch(school("teacher 0", 500)) == "about 70 s left"
    (event,) = logged(log)
    assert event == {
        "event": "remaining", "method": "teacher 0", "seed": 0, "done": 0.3, "seconds_left": 70.0
    }  # fmt: skip


def test_what_was_seen_corrects_the_plan_for_all_that_follows(log):
    clock = iter([100.0, 160.0])
    remaining = Remaining(PARTS, EventLog(log), clock=lambda: next(clock))
    remaining.after_epoch(school("teacher 0", 500))
    # The second half of the teacher was planned to take 30 s, and took 60.
    assert remaining.after_epoch(school("teacher 0", 1000)) == "about 80 s left"


def test_the_end_of_the_last_training_leaves_nothing(log):
    clock = iter([0.0, 60.0, 100.0])
    remaining = Remaining(PARTS, EventLog(log), clock=lambda: next(clock))
    remaining.after_epoch(school("teacher 0", 1000))
    remaining.after_epoch(school("education", 1000))
    remaining.after_epoch(school("education", 2100))
    assert [(event["done"], event["seconds_left"]) for event in logged(log)] == [
        (0.6, 40.0), (0.8, 60.0), (1.0, 0.0)
    ]  # fmt: skip


def test_a_training_that_was_not_planned_is_not_counted(log):
    remaining = Remaining(PARTS, EventLog(log))
    assert remaining.after_epoch(school("education", 1000, seed=1)) == ""
    assert not log.exists()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "about 5 s"), (12, "about 10 s"), (89, "about 90 s"), (95, "about 2 min"),
     (3600, "about 60 min"), (9000, "about 2.5 h")],
)  # fmt: skip
def test_words_are_as_rough_as_the_estimate(seconds, words):
    assert in_words(seconds) == words
