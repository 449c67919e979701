"""Runs: what is trained, in which order, and what a second attempt leaves alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edufast.experiments.answers import Answers
from edufast.experiments.events import ResultEvent
from edufast.experiments.report.advice import choose
from edufast.experiments.run import run, teach, train
from edufast.experiments.run_log import read_events, read_run
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from edufast.teachers.faculty import Faculty
from edufast.utils.errors import UserError
from edufast.utils.lock import folder_lock
from tests.experiments.small import QUIET, small_config, small_setup

DIGITS = {
    "data": {"source": "digits", "image_size": 8, "holdout": 0.6},
    "teachers": [{"model": "resnet8", "classes": classes} for classes in ("0-4", "5-9")],
    "curriculum": {"epochs": 3, "shares": [1, 2], "samples": 64},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    results = run(small_config("education", "scratch", recipe=DIGITS), folder, QUIET)
    assert list(results) == ["education", "scratch"] and list(results["scratch"]) == [0]
    return folder


def test_a_run_ends_with_student_export_and_report(finished):
    for name in ("student.safetensors", "student.onnx", "report.html"):
        assert (finished / name).is_file()


def test_the_page_begins_with_the_file_to_use_and_folds_the_rest(finished):
    answers = Answers.load(finished / "answers.npz")
    log = read_run(finished / "metrics.jsonl")
    assert [export.path for export in log.exports] == list(answers.chosen)
    for export in log.exports:  # the student, and those that end at its exits
        right = (answers.chosen[export.path] == answers.labels).mean()
        assert right == export.accuracy and len(answers.labels) == export.samples
    page = (finished / "report.html").read_text()
    decision, folded, research = page.partition("<summary>How it was trained</summary>")
    assert f"The file to use: {choose(log.exports).file.path}" in decision and folded
    assert "<h2>Results</h2>" in research and "<h2>Results</h2>" not in decision


def test_what_is_finished_is_read_from_the_log(finished):
    config = small_config("education", "scratch", recipe=DIGITS)
    before = read_events(finished / "metrics.jsonl")
    again = run(config, finished, QUIET)
    more = read_events(finished / "metrics.jsonl")[len(before) :]
    assert [event.kind for event in more] == ["export"]
    found = {event.method: event for event in before if isinstance(event, ResultEvent)}
    assert {name: by_seed[0] for name, by_seed in again.items()} == found


def test_what_the_log_lost_is_told_again_from_the_checkpoints(finished, tmp_path):
    """But for the course of the epochs, which the log alone has."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "metrics.jsonl"
    log.write_text("")
    config = small_config("education", "scratch", recipe=DIGITS)
    results, before = run(config, tmp_path, QUIET), run(config, finished, QUIET)
    for name, by_seed in results.items():
        for seed, result in by_seed.items():
            assert result == before[name][seed]


def test_another_run_in_the_folder_is_refused_and_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a run of another recipe"):
        run(small_config("education", recipe=DIGITS), finished, QUIET)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


def test_equal_time_trains_education_first_and_answers_in_the_order_asked(tmp_path):
    setup = small_setup(tmp_path, "scratch", "education", equal="time", export=False)
    with setup.opened():
        results = train(setup, teach(setup))
    events = read_events(tmp_path / "metrics.jsonl")
    trained = [event.method for event in events if isinstance(event, ResultEvent)]
    assert trained == ["education", "scratch"] and list(results) == ["scratch", "education"]


def test_only_the_teachers_that_are_asked_are_trained(tmp_path):
    setup = small_setup(tmp_path, "scratch", "kd")
    with setup.opened():
        faculty = teach(setup)
    assert [teacher.teacher for teacher in setup.folder.log().teachers] == [2]
    assert [len(teacher.model.state_dict()) > 0 for teacher in faculty] == [False, False, True]
    assert isinstance(faculty, Faculty) and not setup.teacher_file(0).exists()


def test_without_methods_all_teachers_are_trained_and_asked_ahead(tmp_path):
    # A student that starts from weights is shown images normalised as these learned them.
    info = ModelInfo("resnet8", tuple("ab"), (0, 1), "x", 16, (0.5,) * 3, (0.5,) * 3, 0.9, 1)
    save_model(tmp_path / "w.safetensors", create_model("resnet8", 2), info)
    student = {"model": "resnet8", "weights": str(tmp_path / "w.safetensors")}
    shared = {"cache": tmp_path / "cache", "recipe": {"student": student}}
    setup = small_setup(tmp_path / "run", **shared)
    with setup.opened():
        teach(setup)
        assert [teacher.teacher for teacher in setup.folder.log().teachers] == [0, 1]
        assert train(setup, teach(setup)) == {}
    cached = small_setup(tmp_path / "cached", "education", teachers=tmp_path / "run", **shared)
    with cached.opened():
        result = train(cached, teach(cached))["education"][0]
    assert result.teacher_flops == 0 < result.teacher_training_flops


def test_a_folder_in_use_is_refused_and_nothing_is_written(tmp_path):
    refused = pytest.raises(UserError, match=r"is in use by process \d+ on .*; wait until it ends")
    with folder_lock(tmp_path), refused:
        run(small_config("education", recipe=DIGITS), tmp_path, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_the_export_will_need_is_missed_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused = pytest.raises(UserError, match=r"exporting \.onnx files needs onnxscript")
    with refused:
        run(small_config("education", recipe=DIGITS), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


# A process of its own, in which DALI cannot be imported, or makes the batches of arrays, too.
TRAIN = """
import sys
from pathlib import Path
if sys.argv[1] == "without":
    sys.modules["nvidia.dali"] = None
else:
    from edufast.data import pipeline
    pipeline.fits = lambda images, device: False
from edufast.experiments.run import run
from tests.experiments.small import QUIET, small_config
from tests.experiments.test_run import DIGITS
run(small_config("education", recipe=DIGITS), Path(sys.argv[2]), QUIET)
"""


def test_without_dali_a_run_on_arrays_gives_the_same_bits(tmp_path):
    pytest.importorskip("nvidia.dali")
    students = []
    for how in ("without", "with"):
        command = [sys.executable, "-c", TRAIN, how, tmp_path / how]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        students.append(load_file(tmp_path / how / "student.safetensors"))
    ours, theirs = students
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
