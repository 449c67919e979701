"""Students of a run: which is kept, and what is said of each."""

from dataclasses import replace

import pytest
import torch

from edufast.data.class_map import ClassMap
from edufast.experiments.run import teach
from edufast.experiments.run_setup import Setup
from edufast.experiments.student_training import export_student, train_student
from edufast.models.weights import ModelInfo, load_model, save_model
from edufast.models.zoo import create_model
from edufast.student.saved_exits import load_exits
from edufast.training.evaluation import evaluate_on
from edufast.training.school import School
from tests.experiments.small import small_setup
from tests.tiny import tiny_data


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Education with two seeds and scratch with one, trained."""
    folder = tmp_path_factory.mktemp("run")
    setup = small_setup(folder, "education", "scratch", seeds=(4, 2), export=False)
    with setup.opened():
        faculty = teach(setup)
        for name, seed in (("scratch", 4), ("education", 2)):
            train_student(setup, setup.methods[name], seed, faculty)
            assert not setup.folder.student.exists()
        train_student(setup, setup.methods["education"], 4, faculty)
    return setup


def test_the_first_education_student_is_kept(setup):
    _, info = load_model(setup.folder.student)
    result = setup.folder.log().results["education", 4]
    assert (info.accuracy, info.training_flops) == (result.accuracy, result.student_flops)
    assert info.class_ids == (0, 1, 2, 3, 4, 5)


def test_results_say_how_good_a_student_is_and_what_it_took(setup):
    log = setup.folder.log()
    assert set(log.results) == {("education", 2), ("education", 4), ("scratch", 4)}
    for (method, seed), result in log.results.items():
        epochs = log.methods[method].trials[seed].epochs
        known = [(e.accuracy, -n) for n, e in enumerate(epochs, 1) if e.grade == epochs[-1].grade]
        assert (result.best_accuracy, -result.best_epoch) == max(known)
        assert result.accuracy == epochs[-1].accuracy
        assert len(result.slice_accuracy) == len(result.slice_accuracy_masked) == 2
        phases = log.methods[method].trials[seed].phases
        assert result.training_seconds == pytest.approx(result.seconds - phases["validation"])
    scratch, education = log.results["scratch", 4], log.results["education", 4]
    assert (scratch.teacher_flops, scratch.teacher_training_flops) == (0, 0)
    taught = sum(teacher.flops for teacher in log.teachers)
    assert education.teacher_flops > 0 and education.teacher_training_flops == taught


def test_an_export_is_measured_on_the_whole_validation_split(setup):
    with setup.opened():
        export_student(setup, *load_model(setup.folder.student), exit=7)
    (export,) = setup.folder.log().exports
    assert (export.path, export.exit) == ("student-exit7.onnx", 7)
    result = setup.folder.log().results["education", 4]
    assert export.accuracy == pytest.approx(result.accuracy)
    assert export.agreement == 1.0 and not export.noise and export.latency_ms > 0


def test_a_student_that_started_from_weights_is_kept_with_the_images_it_learned_from(tmp_path):
    mean, std = (0.41, 0.42, 0.43), (0.21, 0.22, 0.23)
    info = ModelInfo("resnet8", tuple("abc"), (0, 1, 2), "x", 24, mean, std, 0.9, 1)
    save_model(tmp_path / "w.safetensors", create_model("resnet8", 3), info)
    recipe = {
        "student": {"model": "resnet8", "weights": str(tmp_path / "w.safetensors")},
        "teachers": [],
        "curriculum": {"grades": [{"epochs": 2, "classes": "0-5", "fragments": 1}]},
    }
    setup = small_setup(tmp_path / "run", "education", recipe=recipe, export=False)
    with setup.opened():
        result = train_student(setup, setup.methods["education"], 0, teach(setup))
    network, kept = load_model(setup.folder.student)
    assert (kept.mean, kept.std, kept.image_size) == (mean, std, 16)
    shown = replace(tiny_data(), mean=mean, std=std)
    accuracy = evaluate_on(network, shown, ClassMap.of(range(6))).overall
    assert accuracy == result.accuracy


def test_with_a_moving_average_the_average_is_kept_with_its_exits(tmp_path, monkeypatch):
    schools = []
    fit = School.fit
    monkeypatch.setattr(School, "fit", lambda self, *a: schools.append(self) or fit(self, *a))
    training = {"batch_size": 16, "ema": 0.8, "augment": {"pad": 1, "flip": False}}
    setup = small_setup(tmp_path, "education", recipe={"training": training}, export=False)
    with setup.opened():
        result = train_student(setup, setup.methods["education"], 0, teach(setup))
    network, _ = load_model(setup.folder.student)
    average, student = schools[-1].evaluated, schools[-1].student
    kept = load_exits(setup.folder.exits, network, (3, 16, 16))
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        for found, expected, other in zip(
            kept.forward_exits(image),
            average.forward_exits(image),
            student.eval().forward_exits(image),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)
            assert not torch.allclose(found, other)
    assert evaluate_on(network, tiny_data(), ClassMap.of(range(6))).overall == result.accuracy
