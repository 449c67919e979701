"""Event logs read back: whole, partial, damaged, and of other versions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import pytest

from edufast.experiments.run_log import read_events, read_run
from edufast.utils.errors import UserError
from tests.experiments.logs import (
    EXPORT,
    LEARNING,
    RUN,
    TEACHER,
    Event,
    complete,
    result,
    trial,
    write,
)

OPTIONAL = ("slices", "grades", "opset", "accuracy_torch")


def test_phases_add_up_over_seeds(tmp_path):
    log = read_run(write(tmp_path, complete()) / "metrics.jsonl")
    assert log.methods["education"].phases == {"data": 10.0, "student": 120.0, "other <i>": 2.0}


def test_a_resumed_run_supersedes_what_it_repeats(tmp_path: Path) -> None:
    first = trial("education", 0, LEARNING)
    again = trial("education", 0, [*LEARNING[:2], [0.1, 0.2]])[10:]
    log = read_run(write(tmp_path / "run", [RUN, *first, *again]) / "metrics.jsonl")
    (only,) = log.methods["education"].trials.values()
    assert [epoch.accuracy for epoch in only.epochs] == [0.5, 0.9, 0.7, 0.8, 0.1, 0.2]
    assert [grade.accuracy for grade in only.grades] == [0.9, 0.8, 0.2]


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [RUN, *trial("education", 0, LEARNING)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "method": "educ')
    assert len(read_run(run / "metrics.jsonl").methods["education"].trials[0].epochs) == 6


@pytest.mark.parametrize("damage", ["\0", "[" * 100_000])
def test_a_damaged_line_is_left_out_with_a_warning(tmp_path: Path, damage: str) -> None:
    run = write(tmp_path / "run", [RUN, *trial("education", 0, LEARNING)])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[2] = f"{damage}{lines[2][1:]}"
    (run / "metrics.jsonl").write_text("".join(lines))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:3 is damaged and left out"):
        log = read_run(run / "metrics.jsonl")
    assert log.run is not None and len(log.methods["education"].trials[0].epochs) == 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", r'metrics\.jsonl:2: expected an object with a key "event"'),
        ('{"method": "education"}', r'metrics\.jsonl:2: expected an object with a key "event"'),
        (
            '{"event": "phase", "method": "kd", "seed": 0}',
            r'metrics\.jsonl:2: "phase" event without "phase"; if the line is damaged, remove it',
        ),
        (
            json.dumps(result("kd", 0, 0.5, 1e9) | {"accuracy": "high"}),
            r"""metrics\.jsonl:2: "result" event: accuracy: found 'high'; Input should be a""",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(RUN)}\n{line}\n{json.dumps(TEACHER)}\n")
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    ("event", "key"),
    [
        (event, key)
        for event in {event["event"]: event for event in complete()}.values()
        for key in event
        if event["event"] != "step" and key not in ("event", *OPTIONAL)
    ],
)
@pytest.mark.parametrize("absent", ["missing", "null"])
def test_a_missing_field_is_named(
    tmp_path: Path, event: Event, key: str, absent: Literal["missing", "null"]
) -> None:
    rest = {name: value for name, value in event.items() if name != key}
    content = rest if absent == "missing" else {**rest, key: None}
    message = f'metrics.jsonl:1: "{event["event"]}" event without "{key}"'
    with pytest.raises(UserError, match=re.escape(message)):
        read_run(write(tmp_path, [content, RUN]) / "metrics.jsonl")


def test_what_may_be_unknown_is_none(tmp_path: Path) -> None:
    events = [{k: v for k, v in event.items() if k not in OPTIONAL} for event in (RUN, EXPORT)]
    log = read_run(write(tmp_path, events) / "metrics.jsonl")
    assert log.run is not None and log.run.grades is None is log.run.slices
    assert log.exports[0].accuracy_torch is None is log.exports[0].opset


def test_kinds_and_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    later = [{**event, "a later field": [1]} for event in complete()]
    log = read_run(write(tmp_path / "later", [{"event": "a later kind"}, *later]) / "metrics.jsonl")
    assert log == read_run(write(tmp_path / "now", complete()) / "metrics.jsonl")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, complete()) / "metrics.jsonl"
    written = [json.loads(line) for line in path.read_text().splitlines()]
    read = [event.to_dict() for event in read_events(path)]
    assert read == [event for event in written if event["event"] != "step"]


def test_results_by_method_and_seed(tmp_path: Path) -> None:
    log = read_run(write(tmp_path, complete()) / "metrics.jsonl")
    assert set(log.results) == {(m, s) for m in ("education", "scratch") for s in (0, 1)}
    assert log.results["scratch", 1].accuracy == pytest.approx(0.93)
    assert log.baseline is log.methods["scratch"]
