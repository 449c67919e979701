"""A run is followed as another process writes it."""

from __future__ import annotations

import json

import pytest

from edufast.experiments.following import RunFollower
from edufast.utils.errors import UserError
from edufast.utils.lock import folder_lock
from tests.experiments import logs
from tests.experiments.test_runs import EDUCATED, a_run, result

STEP = {
    "event": "step",
    "method": "education",
    "seed": 0,
    "grade": 1,
    "epoch": 1,
    "step": 20,
    "samples": 900,
    "loss": 0.5,
    "lr": 0.1,
    "images_per_second": 7.0,
}
REMAINING = {
    "event": "remaining",
    "method": "education",
    "seed": 0,
    "done": 0.4,
    "seconds_left": 60.0,
}


def append(run, *events, end="\n"):
    with open(run / "metrics.jsonl", "a") as log:
        log.write("".join(json.dumps(event) + "\n" for event in events[:-1]))
        log.write(json.dumps(events[-1]) + end)


def test_what_is_written_meanwhile_is_seen_and_lines_only_when_they_are_whole(tmp_path):
    run = a_run(tmp_path, [logs.RUN])
    follower = RunFollower(run)
    with folder_lock(run):
        now = follower.snapshot()
        assert (now.state, now.step, now.log.methods) == ("running", None, {})
        append(run, *EDUCATED[:2], STEP, REMAINING, end="")
        now = follower.snapshot()
        assert len(now.log.methods["education"].trials[0].epochs) == 1
        assert now.step.samples == 900 and now.remaining is None
        append(run, {}, end="\n")  # what follows a line that has no end belongs to it
        append(run, REMAINING, *EDUCATED[2:], result())
        now = follower.snapshot()
        assert now.remaining.done == 0.4 and now.state == "running"
    now = follower.snapshot()
    assert now.state == "finished" and now.remaining is None
    assert now.log.results["education", 0].accuracy == 0.9


def test_each_line_is_read_once(tmp_path, monkeypatch):
    run = a_run(tmp_path, [logs.RUN, *EDUCATED])
    follower = RunFollower(run)
    follower.snapshot()
    read = []
    monkeypatch.setattr("edufast.experiments.following._parsed", read.append)
    follower.snapshot()
    append(run, STEP)
    follower.snapshot()
    assert [json.loads(line) for line in read] == [STEP]


def test_a_log_that_begins_again_is_read_again(tmp_path):
    run = a_run(tmp_path, [logs.RUN, *EDUCATED, result()])
    follower = RunFollower(run)
    assert follower.snapshot().log.results
    logs.write(run, [logs.RUN])
    now = follower.snapshot()
    assert (now.log.results, now.state) == ({}, "stopped") and now.log.run is not None


def test_damaged_lines_and_events_of_other_versions_are_left_out(tmp_path):
    run = a_run(tmp_path, [logs.RUN])
    with open(run / "metrics.jsonl", "a") as log:
        log.write('{"event": "ep\nnull\n[]\n{"event": "step", "loss": 1}\n{"event": "new"}\n{}\n')
        log.write("[" * 100_000 + "\n")
    append(run, STEP)
    assert RunFollower(run).snapshot().step.loss == 0.5


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        RunFollower(tmp_path)
