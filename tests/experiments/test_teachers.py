"""Teachers from files: fed as they learned, and not by mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edufast.experiments.teachers import load_teacher

from edufast.experiments.recipe import TeacherSection
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from edufast.teachers.faculty import Faculty
from edufast.utils.errors import UserError
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
