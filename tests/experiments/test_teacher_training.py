"""Teachers as files: trained once, refused where they do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edufast.experiments.run_log import read_run
from edufast.experiments.teacher_training import absent_teacher, load_teacher, train_teacher
from edufast.models.weights import read_info
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from tests.experiments.small import QUIET, small_recipe
from tests.tiny import tiny_data

DATA = tiny_data()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teachers")
    train_teacher(
        small_recipe(), 1, DATA, root / "t.safetensors", device="cpu", checkpoint=root / "t.pt",
        event_log=EventLog(root / "log"), console=QUIET,
    )  # fmt: skip
    return root


def test_what_was_trained_is_logged_and_kept(folder):
    (event,) = read_run(folder / "log").teachers
    info = read_info(folder / "t.safetensors")
    assert (event.teacher, event.classes, event.samples) == (1, [3, 4, 5], 64)
    assert (event.accuracy, event.flops) == (info.accuracy, info.training_flops)
    teacher = load_teacher(folder / "t.safetensors", 1, (3, 4, 5), DATA, small_recipe().teachers[1])
    assert teacher.model(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    ("classes", "data", "message"),
    [
        ((3, 4), DATA, r"knows classes 3..5 \(3\) of tiny; expected 3..4 \(2\) of tiny"),
        ((5, 4, 3), DATA, r"knows classes 3..5 \(3\) of tiny; expected 5..3"),
        ((3, 4, 5), replace(DATA, name="other"), "of tiny; expected .* of other"),
        ((3, 4, 5), replace(DATA, std=(0.5,) * 3), "draws and holds them out"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(folder, classes, data, message):
    with pytest.raises(UserError, match=message):
        load_teacher(folder / "t.safetensors", 1, classes, data, small_recipe().teachers[1])


def test_an_absent_teacher_has_nothing_to_store():
    teacher = absent_teacher([2, 4])
    assert tuple(teacher.classes) == (2, 4) and not teacher.model.state_dict()
