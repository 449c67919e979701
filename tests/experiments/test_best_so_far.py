"""The best model so far: kept, exported, and no part of the training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import edufast.experiments.best_so_far as best_module
from edufast.edge.parity import ExportError
from edufast.experiments.after_epoch import AfterEpoch
from edufast.experiments.best_so_far import BestSoFar
from edufast.experiments.run import teach
from edufast.experiments.run_setup import Setup
from edufast.experiments.student_training import train_student
from edufast.models.weights import load_model, read_info
from edufast.teachers.faculty import Faculty
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.experiments.small import small_setup

GROWING = {
    "curriculum": {
        "grades": [
            {"epochs": 1, "classes": "0-5", "image_size": 8, "fragments": 1},
            {"epochs": 1, "fragments": 1},
        ]
    },
    "teachers": [],
}


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    setup = small_setup(tmp_path, "education", recipe=GROWING)
    with setup.opened():
        yield setup


@pytest.fixture
def school(setup: Setup) -> School:
    """In the middle of its first grade, on small images."""
    school = setup.methods["education"].create_school(0, Faculty([]), device="cpu")
    school.begin_grade()
    school.begin_epoch()
    school.train_step(next(school.loader.epoch(0)))
    school.validate()
    return school


def test_the_first_is_exported_at_once(setup, school):
    note = BestSoFar(setup).offer(school, "resnet8")
    assert note.startswith("usable: student.onnx (") and note.endswith("MB)")
    assert (setup.folder.path / "student.onnx").is_file()


def test_a_damaged_one_of_an_earlier_attempt_is_replaced(setup, school):
    setup.folder.best.write_bytes(b"")
    assert BestSoFar(setup).offer(school, "resnet8").startswith("usable: student.onnx (")
    assert read_info(setup.folder.best).accuracy == school.progress.accuracy


def test_what_learned_from_small_images_is_exported_for_small_images(setup, school):
    """And is as accurate there as it was in training."""
    BestSoFar(setup).offer(school, "resnet8")
    _, info = load_model(setup.folder.best)
    (export,) = setup.folder.log().exports
    assert info.image_size == 8 and info.accuracy == school.progress.accuracy
    assert export.accuracy == pytest.approx(school.progress.accuracy, abs=0.05)


def test_of_a_student_with_a_moving_average_the_average_is_kept(tmp_path):
    training = {"batch_size": 16, "ema": 0.5, "augment": {"pad": 1, "flip": False}}
    averaged = small_setup(tmp_path, "education", recipe=GROWING | {"training": training})
    with averaged.opened():
        taught = averaged.methods["education"].create_school(0, Faculty([]), device="cpu")
        taught.begin_grade()
        taught.begin_epoch()
        taught.train_step(next(taught.loader.epoch(0)))
        taught.validate()
        BestSoFar(averaged).offer(taught, "resnet8")
    kept, _ = load_model(averaged.folder.best)
    for name, value in kept.state_dict().items():
        assert torch.equal(value, taught.evaluated.model.state_dict()[name])
    assert not torch.equal(kept.state_dict()["conv1.weight"], taught.student.model.conv1.weight)


def test_a_worse_one_changes_nothing(setup, school):
    best = BestSoFar(setup)
    school.progress.accuracy = 0.5
    best.offer(school, "resnet8")
    before = setup.folder.best.read_bytes()
    with torch.no_grad():
        school.student.classifier.weight.zero_()
    for accuracy in (0.5, 0.4):
        school.progress.accuracy = accuracy
        assert best.offer(school, "resnet8") == "" == best.export()
    assert setup.folder.best.read_bytes() == before
    assert BestSoFar(setup).offer(school, "resnet8") == "", "likewise in a run that goes on"


def test_a_better_one_is_kept_at_once_and_exported_after_a_minute_or_when_asked(
    setup, school, monkeypatch
):
    clock = [1000.0]
    monkeypatch.setattr(best_module.time, "monotonic", lambda: clock[0])
    best, exports = BestSoFar(setup), []
    for seconds, accuracy in ((0, 0.1), (30, 0.2), (61, 0.3), (62, 0.4)):
        clock[0], school.progress.accuracy = 1000.0 + seconds, accuracy
        exports.append(bool(best.offer(school, "resnet8")))
        assert read_info(setup.folder.best).accuracy == accuracy
    assert exports == [True, False, True, False]
    assert best.export() and not best.export()


def test_exports_that_take_long_are_rare(setup, school, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(best_module.time, "monotonic", lambda: clock[0])
    export = best_module.export_student

    def slow(*arguments: object) -> object:
        clock[0] += 10
        return export(*arguments)

    monkeypatch.setattr(best_module, "export_student", slow)
    best, exports = BestSoFar(setup), []
    for seconds, accuracy in ((0, 0.1), (150, 0.2), (211, 0.3)):
        clock[0], school.progress.accuracy = 1000.0 + seconds, accuracy
        exports.append(bool(best.offer(school, "resnet8")))
    assert exports == [True, False, True]


@pytest.mark.parametrize("error", [ExportError, UserError])
def test_what_cannot_be_exported_is_kept_and_told_and_stops_nothing(
    setup, school, monkeypatch, error
):
    def fail(*_: object) -> None:
        raise error("an operator\nis missing")

    monkeypatch.setattr(best_module, "export_student", fail)
    best = BestSoFar(setup)
    assert best.offer(school, "resnet8") == "not exported: an operator is missing"
    assert read_info(setup.folder.best).accuracy == school.progress.accuracy
    assert best.export() == "" and not (setup.folder.path / "student.onnx").exists()


def test_students_that_lack_fragments_or_classes_are_not_offered(tmp_path):
    setup = small_setup(tmp_path, "education")
    with setup.opened():
        faculty = teach(setup)
        best, notes = BestSoFar(setup), []

        def after_epoch(school: School) -> str:
            notes.append((school.progress.grade, bool(best.offer(school, "resnet8"))))
            return ""

        train_student(setup, setup.methods["education"], 0, faculty, after_epoch)
    assert notes[0] == (0, False) and (1, True) in notes


@pytest.mark.parametrize("minutes", [1, None])
def test_a_teacher_is_usable_before_there_is_a_student_where_minutes_count(tmp_path, minutes):
    recipe = {
        "minutes": minutes,
        "teachers": [{"model": "resnet8", "classes": "0-2"}, {"model": "resnet14"}],
        "curriculum": {
            "grades": [
                {"epochs": 1, "teachers": [0]},
                {"epochs": 1, "teachers": [1], "target": "full"},
            ]
        },
    }
    setup = small_setup(tmp_path, "education", recipe=recipe)
    with setup.opened():
        teach(setup, AfterEpoch(BestSoFar(setup)))
    if minutes is None:
        assert not setup.folder.best.exists() and not setup.folder.log().exports
        return
    _, info = load_model(setup.folder.best)
    (event,) = (t for t in setup.folder.log().teachers if t.model == "resnet14")
    assert (info.model, info.accuracy) == ("resnet14", event.accuracy)
    assert [export.path for export in setup.folder.log().exports] == ["student.onnx"]


def test_keeping_and_exporting_leave_the_training_as_it_is(tmp_path):
    students = []
    for name, offers in (("with", True), ("without", False)):
        setup = small_setup(tmp_path / name, "education", recipe=GROWING)
        with setup.opened():
            best = BestSoFar(setup)
            train_student(
                setup, setup.methods["education"], 0, Faculty([]),
                (lambda school, best=best: best.offer(school, "resnet8")) if offers
                else (lambda school: ""),
            )  # fmt: skip
        students.append(load_model(setup.folder.student)[0].state_dict())
    for name, tensor in students[0].items():
        assert torch.equal(tensor, students[1][name]), name


def test_in_the_end_what_was_kept_is_removed(setup, school):
    best = BestSoFar(setup)
    best.offer(school, "resnet8")
    best.end()
    assert not setup.folder.best.exists() and best.export() == ""
    best.end()
