"""The trainings of a run, planned when it begins or goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

import edufast.experiments.plan as plan
from edufast.experiments.pace import Duration
from edufast.experiments.plan import planned
from edufast.experiments.run import run, teach, train
from tests.experiments.small import QUIET, small_config, small_setup

DIGITS = {
    "data": {"source": "digits", "image_size": 8, "holdout": 0.6},
    "teachers": [{"model": "resnet8", "classes": classes} for classes in ("0-4", "5-9")],
    "curriculum": {"epochs": 3, "shares": [1, 2], "samples": 64},
}


@pytest.fixture(autouse=True)
def every_run_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_LONG", 0)
    monkeypatch.setattr(plan.Pace, "loading", lambda *_: 0.0)


def planned_as(duration: Duration, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list of the costs of which the duration is asked."""
    costs = []

    def recorded(recipe: Any, cost: Any, *_: Any) -> Duration:
        costs.append(cost)
        return duration

    monkeypatch.setattr(plan, "expected_duration", recorded)
    return costs


def test_a_long_run_says_how_long_it_will_take_when_it_begins(tmp_path, monkeypatch):
    planned_as(Duration(teaching=(20, 40), learning=30), monkeypatch)
    told = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        console = Console(file=io.StringIO(), width=300)
        config = small_config(
            "education", recipe=DIGITS, export=False, teachers=tmp_path / "a", seeds=(0, 1)
        )
        run(config, folder, console)
        told.append([line for line in console.file.getvalue().splitlines() if "takes" in line])
    (first,), again, (other,) = told
    assert "about 2 min 00 s on this machine, 1 min 00 s of it for teachers" in first
    assert not again and "2 min" in other


def test_a_run_without_teachers_to_train_says_nothing_of_them(tmp_path, monkeypatch):
    planned_as(Duration(teaching=(0, 0), learning=90), monkeypatch)
    console = Console(file=io.StringIO(), width=300)
    run(small_config("education", recipe=DIGITS, export=False), tmp_path / "a", console)
    said = "this takes about 1 min 30 s on this machine, not counting validation"
    assert said in console.file.getvalue()


def test_a_duration_is_that_of_what_is_still_to_be_trained(tmp_path, monkeypatch):
    costs = planned_as(Duration((1, 1), 1), monkeypatch)
    run(small_config("education", recipe=DIGITS, export=False), tmp_path / "a", QUIET)
    config = small_config("education", recipe=DIGITS, export=False, teachers=tmp_path / "a")
    run(config, tmp_path / "b", QUIET)
    fresh, taught = costs
    assert min(fresh.teaching_flops) > 0 == max(taught.teaching_flops)
    assert min(fresh.teaching_samples) > 0 == max(taught.teaching_samples)
    assert fresh.forward_flops == taught.forward_flops


def test_parts_are_what_a_run_still_trains(tmp_path, monkeypatch):
    """As Schools name and count it."""
    planned_as(Duration((10.0, 20.0), 30.0), monkeypatch)
    setup = small_setup(tmp_path, "education", "scratch", export=False, seeds=(0, 1))
    with setup.opened():
        parts = planned(setup)._parts
        assert [(name, seed) for name, seed in parts] == [
            ("teacher 0", 0), ("teacher 1", 0), ("education", 0), ("education", 1),
            ("scratch", 0), ("scratch", 1),
        ]  # fmt: skip
        assert [part.seconds for part in parts.values()][:4] == [10.0, 20.0, 30.0, 30.0]
        assert parts["scratch", 0].seconds > 30, "the whole network from the first step"
        train(setup, teach(setup))
        log = setup.folder.log()
        for teacher in log.teachers:
            assert parts[f"teacher {teacher.teacher}", 0].flops == teacher.flops
        for (method, seed), result in log.results.items():
            assert parts[method, seed].flops == pytest.approx(result.student_flops, rel=0.01)
        assert planned(setup) is None, "nothing is left"


@pytest.mark.parametrize(
    ("methods", "trained"), [(("education",), {0, 2}), (("education", "routed"), {0, 1, 2})]
)
def test_a_teacher_that_nobody_asks_is_not_waited_for(methods, trained, tmp_path, monkeypatch):
    """The last grade has the teacher of all classes instead of the last slice's."""
    planned_as(Duration((1.0, 1.0, 1.0), 1.0), monkeypatch)
    slices = ("0-2", "3-5", "all")
    teachers = [{"model": "resnet8", "classes": classes} for classes in slices]
    setup = small_setup(tmp_path, *methods, export=False, recipe={"teachers": teachers})
    assert setup.asked == trained
    with setup.opened():
        parts = planned(setup)._parts
        assert {name for name, _ in parts} == {f"teacher {k}" for k in trained} | set(methods)


@pytest.mark.parametrize(("methods", "long"), [(("scratch",), 0), (("education",), 1e15)])
def test_short_runs_and_those_without_education_are_not_planned(
    methods, long, tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "_LONG", long)
    setup = small_setup(tmp_path, *methods, export=False)
    with setup.opened():
        assert planned(setup) is None


@pytest.mark.parametrize("minutes", [0.5, 3])
def test_a_run_of_minutes_is_planned_however_small_its_pictures(minutes, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_LONG", 1e15)
    planned_as(Duration((1, 1), 1), monkeypatch)
    setup = small_setup(tmp_path, "education", export=False, recipe={"minutes": minutes})
    with setup.opened():
        assert (planned(setup) is None) == (minutes < 1)
