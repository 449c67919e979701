"""The events of a training: their lines can be read back as what was written."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from edufast.student.student import Student
from edufast.training.curriculum import Curriculum
from edufast.training.events import CompileEvent, EpochEvent, GradeEvent, StepEvent
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.event_log import EventLog
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

EVENTS = {event.kind: event for event in (CompileEvent, StepEvent, EpochEvent, GradeEvent)}
WHERE = {"method": "education", "seed": 3, "grade": 1, "epoch": 0}


def test_a_line_begins_with_the_kind_and_where_the_training_stood():
    event = CompileEvent(**WHERE, compiled=False, reason="as requested")
    line = event.to_dict()
    assert list(line.items()) == [
        ("event", "compile"),
        *WHERE.items(),
        ("compiled", False),
        ("reason", "as requested"),
    ]


@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: event.kind)
def test_no_field_may_be_missing(event):
    assert {field.name for field in fields(event)} > set(WHERE)
    with pytest.raises(TypeError, match="missing"):
        event(**WHERE)


def test_a_school_writes_lines_that_make_the_same_events_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    slices = [range(0, 3), range(3, 6)]
    curriculum = Curriculum.graded(slices, 2, shares=[1, 1])
    school = School(
        Student(tiny_model(), 2, input_size=(3, 16, 16)),
        tiny_faculty(*slices),
        curriculum,
        tiny_data(),
        training=TRAINING,
        options=SchoolOptions(event_log=EventLog(path), seed=3, name="mine"),
    )
    school.fit()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["grade"]) for line in lines] == [
        (kind, grade) for grade in (1, 2) for kind in ("compile", "step", "epoch", "grade")
    ]
    for line in lines:
        event = EVENTS[line["event"]](**{k: v for k, v in line.items() if k != "event"})
        assert event.to_dict() == line
        assert (event.method, event.seed, event.epoch) == ("mine", 3, 0)
    first, second = (line for line in lines if line["event"] == "grade")
    assert first["slice_accuracy"][1] is None and first["slice_accuracy_masked"][1] is None
    assert None not in second["slice_accuracy"] + second["slice_accuracy_masked"]
    assert (second["classes"], second["fragments"]) == (6, 2)
