"""A training whose steps are replayed is the training whose steps are launched one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from edufast.distill import ALGORITHMS, create_algorithm
from edufast.student.student import Student
from edufast.teachers.targets import TARGETS
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils import cuda_graph
from tests.replays import emulated
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data(classes=4, per_class=16)
HALVES = [range(0, 2), range(2, 4)]
OPTIONS = {"crd": {"negatives": 10, "width": 8}, "fitnet": {"stage": "two_stage"}}
GPU = pytest.param(
    "cuda", id="gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
)


def school(name: str, target: str, device: str, **training: Any) -> School:
    """Two grades of four steps an epoch or more, every step with a learning rate of its own; in the
    last epoch a fragment is frozen."""
    torch.manual_seed(0)
    full = target == "full"
    grades = [
        Grade(2, range(4) if full else HALVES[0], [2, 3] if full else [0], 1, target),
        Grade(3, () if full else HALVES[1], [3, 2] if full else [0, 1], 3, target, freeze=(0.5,)),
    ]
    model = tiny_model(4)
    model[2][2].p = 0.0  # no random numbers, so that weights can be compared
    faculty = tiny_faculty(*HALVES, range(4), range(4))
    if device != "cpu":
        faculty = type(faculty)(list(faculty), device)
    return School(
        Student(model, 3, input_size=(3, 16, 16)),
        faculty,
        Curriculum(grades, exit_weight=0.5),
        DATA,
        algorithm=create_algorithm(name, **OPTIONS.get(name, {})),
        training=replace(TRAINING, batch_size=8, **training),
        options=SchoolOptions(device=device),
    )


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        monkeypatch.setattr(cuda_graph, "capture", emulated)
        monkeypatch.setattr(cuda_graph, "DEVICES", ("cpu",))
    return str(request.param)


@pytest.fixture
def captures(device: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each function that was captured."""
    names: list[str] = []
    real = cuda_graph.capture

    def counted(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        names.append(function.__name__)
        return real(function, arguments)

    monkeypatch.setattr(cuda_graph, "capture", counted)
    return names


def assert_same_training(found: School, expected: School) -> None:
    graduates = []
    for taught in found, expected:
        torch.manual_seed(1)  # adapters begin with random weights
        graduates.append(taught.fit().state_dict())
    for key, weight in graduates[1].items():
        torch.testing.assert_close(graduates[0][key], weight, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("target", ["full", "routed", "gated"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_the_same(name, target, device, captures):
    replayed = school(name, target, device)
    assert_same_training(replayed, school(name, target, device, compile=False))
    # Once an epoch that has more than two steps, whether a fragment was frozen or not.
    assert captures.count("_learn_and_update") == 5
    assert captures.count("_run") > 0 or replayed.algorithm.reads_features


@pytest.mark.parametrize("target", [n for n in TARGETS if n not in ("none", "full", "routed")])
def test_every_target_is_learnt_the_same(target, device, captures):
    assert_same_training(school("kd", target, device), school("kd", target, device, compile=False))
    assert captures


def test_adamw_learns_the_same(device, captures):
    schools = [
        school("kd", "full", device, optimizer="adamw", lr=1e-3, compile=c) for c in ("auto", False)
    ]
    assert_same_training(*schools)
    assert captures


def test_clipped_gradients_are_learnt_from_the_same(device, captures):
    clipped = [school("fitnet", "full", device, clip=0.3, compile=c) for c in ("auto", False)]
    assert_same_training(*clipped)
    assert captures.count("_learn_and_update") == 5


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_are_learnt_the_same(mix, device, captures):
    assert_same_training(
        *(school("kd", "full", device, mix=mix, compile=c) for c in ("auto", False))
    )
    assert captures.count("_learn_and_update") == 5


def test_the_average_of_replayed_steps_is_that_of_all_steps(device, captures):
    schools = [school("kd", "full", device, ema=0.8, compile=c) for c in ("auto", False)]
    assert_same_training(*schools)
    replayed, launched = (each.evaluated.state_dict() for each in schools)
    for key, weight in launched.items():
        torch.testing.assert_close(replayed[key], weight, rtol=1e-3, atol=1e-4, msg=key)
    assert captures.count("_learn_and_update") == 5


def test_the_state_of_replayed_steps_resumes(device, captures):
    expected = school("kd", "full", device).fit().state_dict()
    stopped = school("kd", "full", device)
    for g in range(2):
        stopped.progress.grade = g
        stopped.begin_grade()
        for epoch in range(2 if g == 0 else 1):
            stopped.progress.epoch, stopped.progress.step = epoch, 0
            stopped.begin_epoch()
            for batch in stopped.loader.epoch(epoch):
                stopped.train_step(batch)
    stopped.progress.epoch, stopped.progress.step = 1, 0
    state = stopped.state_dict()
    assert captures
    resumed = school("kd", "full", device)
    resumed.load_state_dict(state)
    graduate = resumed.fit().state_dict()
    for key, weight in expected.items():
        torch.testing.assert_close(graduate[key], weight, rtol=1e-3, atol=1e-4, msg=key)


def test_with_compile_false_nothing_of_the_student_is_captured(device, captures):
    school("kd", "full", device, compile=False).fit()
    assert "_learn_and_update" not in captures
