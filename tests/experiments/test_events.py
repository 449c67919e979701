"""Events of a run, as lines of its log."""

import pytest

from edufast.experiments import events
from edufast.experiments.events import ExportEvent, PlannedGrade, RunEvent
from edufast.utils.event_log import Event

RUN = RunEvent(
    name="r",
    dataset="digits",
    classes=["0", "1"],
    num_classes=2,
    device="cpu",
    torch="2",
    student="resnet8",
    split="holdout",
    equal="time",
)


def test_every_kind_has_a_name_of_its_own():
    found = [e for e in vars(events).values() if isinstance(e, type) and issubclass(e, Event)]
    kinds = [event.kind for event in found if event is not Event]
    assert sorted(kinds) == [
        "budget", "device", "export", "phase", "remaining", "result", "run", "teacher",
    ]  # fmt: skip


def test_grades_are_objects_and_what_is_unknown_is_left_out():
    assert {"slices", "grades"}.isdisjoint(RUN.to_dict())
    grade = PlannedGrade(grade=1, fragments=1, classes=2, image_size=8, epochs=3, target="gated")
    known = RunEvent(**{**vars(RUN), "grades": [grade]})
    assert known.to_dict()["grades"] == [
        {"grade": 1, "fragments": 1, "classes": 2, "image_size": 8, "epochs": 3, "target": "gated"}
    ]


@pytest.mark.parametrize("accuracy", [None, 0.5])
def test_the_models_accuracy_is_there_where_it_is_known(accuracy):
    export = ExportEvent(
        path="s.onnx", opset=18, bytes=1, noise=accuracy is None, samples=2, agreement=1.0,
        accuracy_torch=accuracy, max_abs_difference=0.0, accuracy=0.5,
        latency_ms=1.0,
    ).to_dict()  # fmt: skip
    assert ("accuracy_torch" in export) == (accuracy is not None)
