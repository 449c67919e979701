"""What is written of a training, and by whom."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edufast.training.events import StepEvent
from edufast.training.progress import Progress
from edufast.training.records import Records
from edufast.training.settings import SchoolOptions, Training
from edufast.utils.event_log import EventLog

STEP = {"step": 7, "samples": 70, "loss": 1.0, "lr": 0.1, "images_per_second": 5.0}


def written(folder: Path) -> list[dict[str, object]]:
    options = SchoolOptions(event_log=EventLog(folder / "log"), name="mine", seed=4)
    Records(options, 2, pytest.fail).write(Progress(grade=1, epoch=2), StepEvent, **STEP)
    log = folder / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_an_event_says_of_which_training_it_is_and_where(tmp_path):
    where = {"event": "step", "method": "mine", "seed": 4, "grade": 2, "epoch": 2}
    assert written(tmp_path) == [where | STEP]


def test_the_first_of_several_ranks_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("edufast.utils.ranks.rank", lambda: 1)
    assert written(tmp_path) == []


def test_compiling_is_told_where_it_changes_and_every_grade_is_in_the_log(tmp_path):
    log, told = EventLog(tmp_path / "log"), []
    records = Records(SchoolOptions(event_log=log), 2, told.append)
    for grade, compiled in enumerate([False, False, True, True, False]):
        step = SimpleNamespace(compiled=compiled, reason=f"grade {grade}")
        records.compiled(Progress(grade=grade), step, Training())
    assert told == ["not compiled: grade 0", "compiled: grade 2", "not compiled: grade 4"]
    assert len((tmp_path / "log").read_text().splitlines()) == 5
    records = Records(SchoolOptions(), 2, pytest.fail)
    records.compiled(Progress(), step, Training(compile=False))
