"""What is written of a training, and by whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edufast.training.events import StepEvent
from edufast.training.progress import Progress
from edufast.training.records import Records
from edufast.training.settings import SchoolOptions
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
