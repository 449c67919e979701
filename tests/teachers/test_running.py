"""A teacher's network where it runs; what a Faculty promises of it is in test_faculty.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edufast.models.image_format import ImageFormat
from edufast.teachers.running import RunningTeacher
from edufast.teachers.teacher import Teacher
from edufast.utils.errors import UserError
from tests.tiny import tiny_model

IMAGES = torch.linspace(0, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def running(teacher: Teacher, **options: object) -> RunningTeacher:
    given = {"dtype": None, "compile": False, "sharded": False} | options
    return RunningTeacher(teacher, 3, torch.device("cpu"), **given)


class Writes(nn.Module):
    """Changes its images in place, and looks at one number of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2).flatten(1)[:, -2:]


def test_the_copy_is_private_and_gives_the_model_s_logits():
    model = tiny_model(4).eval()
    expected = model(IMAGES)
    copy = running(Teacher(model, classes=range(4)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for eager in (True, False):
            torch.testing.assert_close(copy.logits(IMAGES, eager=eager), expected)


def test_images_stay_as_they_are_for_a_network_that_writes_into_them():
    copy, images = running(Teacher(Writes(), classes=range(2))), IMAGES.clone()
    for _ in range(3):
        with torch.no_grad():
            assert torch.equal(copy.logits(images, eager=True), 2 * IMAGES.flatten(1)[:, -2:])
    assert torch.equal(images, IMAGES)


def test_images_are_converted_once_it_is_known_how_they_come():
    teacher = Teacher(
        nn.Flatten(), classes=range(12), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=2
    )
    copy = running(teacher)
    assert copy.input_size((3, 8, 8)) == (3, 2, 2)
    with pytest.raises(RuntimeError, match=r"teacher 3 .*: call prepare\(data, augment\) first"):
        copy.logits(IMAGES, eager=True)
    copy.prepare(ImageFormat((0.0,) * 3, (1.0,) * 3, 8))
    shown = copy.logits(torch.full((1, 3, 8, 8), 0.75), eager=True)
    torch.testing.assert_close(shown, torch.full((1, 12), 0.5))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Flatten(), r"teacher 3 \(expert\) gives logits \(2, 192\); expected \(2, 5\)"),
        (nn.Linear(7, 5), r"teacher 3 \(expert\) fails on images \(2, 3, 8, 8\): mat1"),
    ],
)
def test_what_does_not_fit_is_told_with_its_number_and_name(model, message):
    with pytest.raises(UserError, match=message):
        running(Teacher(model, classes=range(5), name="expert")).logits(IMAGES, eager=True)
