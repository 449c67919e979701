"""Runs beside each other: found, told apart, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edufast.experiments.run_folder import RunFolder
from edufast.experiments.run_setup import Setup
from edufast.experiments.runs import RunState, compare_runs, find_runs, run_state
from edufast.utils.errors import UserError
from edufast.utils.lock import folder_lock
from tests.experiments import logs
from tests.experiments.small import small_config

EDUCATED = logs.trial("education", 0, logs.LEARNING)


def a_run(path: Path, events: list[logs.Event], **config: Any) -> Path:
    """Of education with one seed, unless ``config`` says otherwise."""
    given = {"export": False, **config}
    methods = given.pop("methods", ("education",))
    path.mkdir(parents=True, exist_ok=True)
    RunFolder(path).claim(small_config(*methods, **given))
    return logs.write(path, events)


def result(accuracy: float = 0.9, method: str = "education", seed: int = 0) -> logs.Event:
    return logs.result(method, seed, accuracy, 6e12)


def test_a_run_that_has_all_results_is_finished(tmp_path):
    done = a_run(tmp_path / "a", [logs.RUN, logs.TEACHER, *EDUCATED, result(0.9)])
    seconds = 75.0 + logs.TEACHER["seconds"]
    assert run_state(done) == RunState(done, "finished", 3, 3, 0.9, seconds)


def test_a_finished_run_is_read_without_the_weights_that_it_learned_from(tmp_path):
    teachers = [{"model": "resnet8", "weights": str(tmp_path / "gone.safetensors")}]
    events = [logs.RUN, *EDUCATED, result(0.9)]
    done = a_run(tmp_path / "a", events, recipe={"teachers": teachers})
    assert run_state(done).state == "finished"
    with pytest.raises(UserError, match=r"teachers.0.weights: .* does not exist"):
        Setup(RunFolder(done).read_config(), done)


def test_a_run_without_a_process_and_without_all_results_is_stopped(tmp_path):
    begun = a_run(tmp_path / "a", [logs.RUN, *logs.trial("education", 0, logs.LEARNING[:2])])
    assert run_state(begun) == RunState(begun, "stopped", 2, 3, 0.8, 0.0)
    assert run_state(a_run(tmp_path / "b", [logs.RUN])) == RunState(tmp_path / "b", "stopped")


def test_a_run_whose_folder_a_process_holds_is_running(tmp_path):
    begun = a_run(tmp_path / "a", [logs.RUN])
    with folder_lock(begun):
        assert run_state(begun).state == "running"
    assert run_state(begun).state == "stopped"


def test_the_file_of_the_student_is_one_of_the_results(tmp_path):
    events = [logs.RUN, *EDUCATED, result()]
    assert run_state(a_run(tmp_path / "a", events, export=True)).state == "stopped"
    exported = a_run(tmp_path / "b", [*events, logs.EXPORT], export=True)
    assert run_state(exported).state == "finished"
    RunFolder(exported).best.touch()  # what was exported is not the finished student
    assert run_state(exported).state == "stopped"


def test_a_run_of_teachers_is_finished_with_the_last_of_them(tmp_path):
    second = logs.TEACHER | {"teacher": 1}
    for events, state in (([logs.TEACHER], "stopped"), ([logs.TEACHER, second], "finished")):
        path = a_run(tmp_path / state, [logs.RUN, *events], methods=())
        assert run_state(path).state == state


def test_a_damaged_run_is_listed_with_the_reason(tmp_path):
    damaged = a_run(tmp_path / "a", [logs.RUN])
    (damaged / "config.yaml").write_text("recipe: 3")
    state = run_state(damaged)
    assert state.state == "damaged" and "config.yaml" in state.note and "\n" not in state.note


def test_a_run_whose_files_cannot_be_opened_is_listed_with_the_reason(tmp_path):
    damaged = a_run(tmp_path / "a", [logs.RUN])
    (damaged / "metrics.jsonl").unlink()
    (damaged / "metrics.jsonl").mkdir()
    note = f"{damaged / 'metrics.jsonl'}: Is a directory"
    assert run_state(damaged) == RunState(damaged, "damaged", note=note)


def test_runs_are_found_wherever_they_are_below_a_folder(tmp_path):
    paths = [a_run(tmp_path / name, [logs.RUN]) for name in ("b", "a/y", "a/x")]
    (tmp_path / "no_run").mkdir()
    assert find_runs(tmp_path) == sorted(paths)
    assert find_runs(paths[0]) == [paths[0]]
    with pytest.raises(UserError, match="missing is not a folder; expected one that holds runs"):
        find_runs(tmp_path / "missing")


def test_two_runs_differ_in_keys_and_results(tmp_path):
    one = a_run(tmp_path / "a", [logs.RUN, *EDUCATED, result(0.9), logs.EXPORT])
    two = [result(0.8, seed=seed) for seed in (0, 1)] + [result(0.5, "scratch")]
    other = a_run(
        tmp_path / "b",
        [logs.RUN, *EDUCATED, *two],
        methods=("education", "scratch"),
        seeds=(0, 1),
        recipe={"teacher_epochs": 2, "training": {"batch_size": 16, "lr": 0.2}},
    )
    found = compare_runs(one, other)
    assert ("training.lr", 0.1, 0.2) in found.keys
    assert ("teacher_epochs", 1, 2) in found.keys
    assert ("seeds", [0], [0, 1]) in found.keys
    told = {name: (a, b) for name, a, b in found.results}
    assert told["education: accuracy"] == ("90.0 %", "80.0 ± 0.0 %")
    assert told["scratch: accuracy"] == (None, "50.0 %")
    assert told["student.onnx: size"] == ("0.33 MB", None)
    assert compare_runs(one, one).keys == []


def test_what_holds_no_run_is_not_compared(tmp_path):
    one = a_run(tmp_path / "a", [logs.RUN])
    with pytest.raises(UserError, match="holds no run"):
        compare_runs(one, tmp_path)
