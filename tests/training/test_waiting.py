"""A training step never waits for the device: on the CPU with tensors nobody may look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import torch

from edufast.data import Batch
from edufast.distill import ALGORITHMS, WEIGHTINGS, Algorithm, create_algorithm
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.teachers.targets import TARGETS
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from tests.remote import Remote, WaitedError
from tests.tiny import TRAINING, tiny_data, tiny_model

DATA = tiny_data(classes=4, per_class=16)
HALVES = [range(0, 2), range(2, 4)]
OPTIONS = {"crd": {"negatives": 10, "width": 8}, "fitnet": {"stage": "two_stage"}}
MERGED = [name for name in TARGETS if name not in ("none", "full", "routed")]


def school(algorithm: Algorithm, target: str, device: str = "cpu", **training: Any) -> School:
    """Two grades: of two slices by their teachers or, "full", of depth by two teachers of all."""
    torch.manual_seed(0)
    full = target == "full"
    grades = [
        Grade(1, range(4) if full else HALVES[0], [2, 3] if full else [0], 1, target),
        Grade(2, () if full else HALVES[1], [3, 2] if full else [0, 1], 3, target),
    ]
    model = tiny_model(4)
    model[2][2].p = 0.0  # no random numbers, so that losses can be compared
    slices = (*HALVES, range(4), range(4))
    own = {"mean": (0.5,) * 3, "image_size": 24}  # images are converted for them
    faculty = Faculty([Teacher(tiny_model(len(s)), s, **own) for s in slices], device)
    return School(
        Student(model, 3, input_size=(3, 16, 16)),
        faculty,
        Curriculum(grades, exit_weight=0.5),
        DATA,
        training=replace(TRAINING, **training),
        algorithm=algorithm,
        options=SchoolOptions(device=device),
    )


def batches(taught: School) -> Iterator[Batch]:
    """The first two of each grade, which has then begun."""
    for g in range(len(taught.plans)):
        taught.progress.grade = g
        taught.begin_grade()
        taught.begin_epoch()
        source = taught.loader.epoch(0)
        yield next(source)
        yield next(source)


def remote(batch: Batch) -> Batch:
    held = {name: Remote(getattr(batch, name)) for name in ("images", "labels", "index")}
    return batch._replace(**held)


def assert_never_waits(
    name: str, target: str, training: Mapping[str, Any] = MappingProxyType({}), **options: str
) -> None:
    def losses(watched: bool) -> list[torch.Tensor]:
        algorithm = create_algorithm(name, **OPTIONS.get(name, {}), **options)
        taught = school(algorithm, target, **training)
        found = [taught.train_step(remote(b) if watched else b) for b in batches(taught)]
        assert all(isinstance(loss, Remote) == watched for loss in found)
        return [loss.held if watched else loss for loss in found]

    torch.testing.assert_close(losses(watched=True), losses(watched=False))


@pytest.mark.parametrize("target", ["full", "routed", "gated"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_algorithm_waits(name: str, target: str) -> None:
    assert_never_waits(name, target)


@pytest.mark.parametrize("target", MERGED)
def test_no_target_waits(target: str) -> None:
    assert_never_waits("kd", target)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["kd", "dist", "mse"])
def test_no_weighting_waits(name: str, weighting: str) -> None:
    assert_never_waits(name, "full", weighting=weighting)


@pytest.mark.parametrize(
    "setting",
    [
        {"clip": 0.5},
        {"erase": 0.5},
        {"ema": 0.5},
        {"mix": "mixup"},
        {"mix": "cutmix"},
        {"label_smoothing": 0.1},
    ],
)
def test_no_setting_of_the_step_waits(setting: dict[str, Any]) -> None:
    assert_never_waits("kd", "full", setting)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum()),
        lambda x: int(x.argmax()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > x.mean().item(), 0),
        lambda x: (x > 0).nonzero(),
        lambda x: x.unique(),
        lambda x: torch.arange(3)[: x.argmax()],
    ],
)
def test_what_would_wait_is_found(look: object) -> None:
    with pytest.raises(WaitedError):
        look(Remote(torch.randn(5)))  # type: ignore[operator]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("target", ["full", "routed", "gated"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_gpu_no_algorithm_waits(name: str, target: str) -> None:
    taught = school(create_algorithm(name, **OPTIONS.get(name, {})), target, "cuda")
    for batch in batches(taught):
        torch.cuda.synchronize()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            taught.train_step(batch)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
