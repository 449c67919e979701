"""Rectangles of images that show nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from edufast.data import Batch
from edufast.data.erasing import erased
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.training.settings import Training
from tests.tiny import tiny_data, tiny_faculty, tiny_model

SHAPE = 400, 3, 24, 16


def holes(share: float, **changes: Any) -> Tensor:
    """(B, H, W): where images of ones show nothing."""
    images = torch.ones(SHAPE).to(memory_format=torch.channels_last)
    labels = torch.zeros(SHAPE[0], dtype=torch.int64)
    where = {"seed": 3, "epoch": 1, "iteration": 5, **changes}
    found = erased(share, Batch(images, labels, labels), **where).images
    assert found.is_contiguous(memory_format=torch.channels_last) and images.all()
    assert torch.equal(found[:, 0], found[:, 2])
    return found[:, 0] == 0


def test_a_rectangle_of_the_papers_sizes_shows_nothing():
    found = holes(1.0)
    heights, widths = found.any(2).sum(1), found.any(1).sum(1)
    assert torch.equal(found.sum((1, 2)), heights * widths)  # rectangles
    areas = found.double().mean((1, 2))
    assert 0 < areas.min() < 0.03 and 0.37 < areas.max() < 0.44
    assert abs(areas.mean() - 0.21) < 0.03
    ratios = (heights / widths).log()
    assert abs(ratios.mean()) < 0.1 and ratios.abs().max() > 0.8
    assert found.any(0).all()  # anywhere


def test_as_many_images_as_asked_for_and_others_are_left():
    assert not holes(0.0).any()
    assert 0.2 < holes(0.25).any((1, 2)).double().mean() < 0.3


@pytest.mark.parametrize("name", ["seed", "epoch", "iteration"])
def test_what_is_drawn_depends_on_nothing_else(name):
    assert torch.equal(holes(0.5), holes(0.5))
    assert not torch.equal(holes(0.5), holes(0.5, **{name: 7}))


def test_stored_logits_are_refused(tmp_path):
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    curriculum = Curriculum.single(range(6), 1, teachers=[0], target="full")
    faculty = CachedFaculty(list(tiny_faculty(range(6))), tmp_path)
    with pytest.raises(ValueError, match=r"erase is 0.1, but stored logits are of whole images"):
        School(student, faculty, curriculum, tiny_data(), training=Training(erase=0.1))
