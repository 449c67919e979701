"""Teachers as files: trained once, refused where they do not fit."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from edufast.data.class_map import ClassMap
from edufast.experiments.run_log import read_run
from edufast.experiments.teacher_training import absent_teacher, load_teacher, train_teacher
from edufast.models.weights import ModelInfo, read_info, save_model
from edufast.models.zoo import create_model
from edufast.training.evaluation import evaluate_on
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


def test_logits_are_of_the_classes_that_the_file_says_in_whatever_order_a_recipe_has_them(tmp_path):
    teacher = {"model": "resnet8", "classes": "3-5,1", "epochs": 4}
    recipe, path = small_recipe(teachers=[teacher]), tmp_path / "t"
    event = train_teacher(
        recipe, 0, DATA, path, device="cpu", checkpoint=tmp_path / "t.pt",
        event_log=EventLog(), console=QUIET,
    )  # fmt: skip
    teacher = load_teacher(path, 0, recipe.teacher_classes(DATA)[0], DATA, recipe.teachers[0])
    found = evaluate_on(teacher.model, DATA, ClassMap.of(teacher.classes))
    assert found.overall == event.accuracy > 0.5


def test_an_absent_teacher_has_nothing_to_store():
    teacher = absent_teacher([2, 4])
    assert tuple(teacher.classes) == (2, 4) and not teacher.model.state_dict()


# --- fine-tuning ---------------------------------------------------------------------------------

MEAN, STD = (0.41, 0.42, 0.43), (0.21, 0.22, 0.23)


@pytest.fixture
def tuned(tmp_path: Path):
    """A recipe whose teacher starts from weights of other classes, and its file once trained."""
    info = ModelInfo("resnet8", tuple("abcd"), tuple(range(4)), "x", 24, MEAN, STD, 0.9, 1)
    save_model(tmp_path / "w.safetensors", create_model("resnet8", 4), info)
    start = {"model": "resnet8", "weights": str(tmp_path / "w.safetensors"), "epochs": 1}
    recipe = small_recipe(teachers=[start], curriculum={"epochs": 1})
    console = Console(file=io.StringIO(), width=200)
    train_teacher(
        recipe, 0, DATA, tmp_path / "t.safetensors", device="cpu", checkpoint=tmp_path / "t.pt",
        event_log=EventLog(), console=console,
    )  # fmt: skip
    return recipe, tmp_path / "t.safetensors", console.file.getvalue()


def test_a_teacher_that_started_from_weights_looks_at_images_as_these_did(tuned):
    recipe, path, said = tuned
    assert "teacher 0: resnet8 starts from " in said and "4 classes is replaced by one of 6" in said
    info = read_info(path)
    assert (info.mean, info.std, info.data_mean) == (MEAN, STD, DATA.mean)
    teacher = load_teacher(path, 0, range(6), DATA, recipe.teachers[0])
    assert (teacher.mean, teacher.std, teacher.image_size) == (MEAN, STD, 16)


def test_a_teacher_that_started_from_weights_and_saw_other_images_is_refused(tuned):
    recipe, path, _ = tuned
    others = replace(DATA, mean=(0.31, 0.3, 0.3))  # another draw of the data set
    with pytest.raises(UserError, match=r"mean \(0.3000, .* and holds them out have \(0.3100"):
        load_teacher(path, 0, range(6), others, recipe.teachers[0])
