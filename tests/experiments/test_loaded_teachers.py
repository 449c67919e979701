"""Teachers from files: fed as they learned, and not by mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from edufast.experiments.recipe import TeacherSection, parse_recipe
from edufast.experiments.teacher_training import load_teacher, train_teacher
from edufast.models.averaging import average_files
from edufast.models.weights import ModelInfo, load_model, save_model
from edufast.models.zoo import create_model
from edufast.teachers.faculty import Faculty
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from tests.tiny import TRAINING, tiny_data

DATA = tiny_data()
SECTION = TeacherSection(model="resnet8")
MEAN, STD = (0.48, 0.45, 0.4), (0.23, 0.22, 0.21)


@pytest.fixture
def path(tmp_path):
    """Of a teacher that learned from images of another mean, std and size."""
    learned = replace(DATA, mean=MEAN, std=STD, image_size=24)
    info = ModelInfo.describe("resnet8", learned, range(6), 0.5, 1, 1.0)
    torch.manual_seed(0)
    save_model(tmp_path / "t.safetensors", create_model("resnet8", 6), info)
    return tmp_path / "t.safetensors"


def test_a_teacher_is_fed_what_its_file_says(path):
    section = SECTION.model_copy(update={"mean": MEAN, "std": STD, "image_size": 24})
    teacher = load_teacher(path, 0, range(6), DATA, section)
    assert (teacher.mean, teacher.std, teacher.image_size) == (MEAN, STD, 24)
    faculty = Faculty([teacher])
    faculty.prepare(DATA, TRAINING.augment)
    black = -torch.tensor(DATA.mean).view(3, 1, 1) / torch.tensor(DATA.std).view(3, 1, 1)
    its_own = (-torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)
    with torch.no_grad():
        expected = teacher.model(its_own.expand(2, 3, 24, 24))
    logits = faculty.logits(0, black.expand(2, 3, 16, 16))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, r"those of tiny as this recipe draws and holds them out have \(0.3000"),
        ({"mean": MEAN}, r"teachers.0 says \(0.4800, 0.4500, 0.4000\) and \(0.2000"),
        ({"mean": MEAN, "std": (0.2, 0.2, 0.2)}, "teachers.0 says .* and .0.2000"),
        ({"mean": MEAN, "std": STD, "image_size": 32}, "images of 24 pixels; teachers.0 says 32"),
    ],
)
def test_other_images_than_expected_are_named_by_the_recipe(path, named, message):
    with pytest.raises(UserError, match=message):
        load_teacher(path, 0, range(6), DATA, SECTION.model_copy(update=named))


def test_classes_that_were_renamed_since_are_told(path):
    """In a folder they are sorted by name: most get other positions."""
    section = SECTION.model_copy(update={"mean": MEAN, "std": STD})
    renamed = replace(DATA, classes=(*DATA.classes[1:], "z0"))
    message = r"t.safetensors learned 'c0' as class 0, which is 'c1' in tiny now; expected the same"
    with pytest.raises(UserError, match=message):
        load_teacher(path, 0, range(6), renamed, section)
    with pytest.raises(UserError, match=r"learned 'c3' as class 3, which is None in tiny now"):
        tiny_data(3).check_names({3: "c3"}, "somebody")


def test_models_of_two_runs_can_be_merged(tmp_path):
    """With files as runs write them: no two trainings take the same time."""
    section = {"model": "resnet8", "classes": "0-9"}
    content = {
        "name": "r",
        "data": {"source": "digits", "image_size": 8, "holdout": 0.6},
        "student": {"model": "resnet8"},
        "teachers": [section],
        "teacher_epochs": 1,
        "curriculum": {"epochs": 1},
        "training": {"batch_size": 32, "augment": {"pad": 1, "flip": False}},
    }
    paths = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        recipe = parse_recipe(content | {"seed": seed})
        train_teacher(
            recipe, 0, recipe.data.load(), path, device="cpu", checkpoint=tmp_path / f"{seed}.pt",
            event_log=EventLog(), console=Console(quiet=True),
        )  # fmt: skip
    average_files(paths, tmp_path / "merged.safetensors")
    models, infos = zip(*map(load_model, [*paths, tmp_path / "merged.safetensors"]), strict=True)
    first, second, merged = infos
    assert first.training_seconds != second.training_seconds
    assert merged.training_seconds == first.training_seconds + second.training_seconds
    assert merged.training_flops == first.training_flops + second.training_flops
    expected = (models[0].fc.weight + models[1].fc.weight) / 2
    torch.testing.assert_close(models[2].fc.weight, expected)
