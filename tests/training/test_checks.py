"""What a School refuses; more of it is in test_school.py."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training import checks
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.pair import on_ranks
from tests.tiny import tiny_data, tiny_model
from tests.training.equality import CASES


def test_a_batch_has_a_sample_for_each_rank(monkeypatch):
    checks.check_batch(1)
    monkeypatch.setattr(checks, "size", lambda: 3)
    checks.check_batch(3)
    with pytest.raises(UserError, match="a batch has 2 samples; expected at least one for each of"):
        checks.check_batch(2)


def test_a_student_that_is_not_float32_is_refused():
    student = Student(tiny_model().bfloat16(), 1, input_size=(3, 16, 16))
    with pytest.raises(ValueError, match=r"of the student is torch\.bfloat16; expected torch\.flo"):
        School(student, Faculty([]), Curriculum([Grade(1, range(6))]), tiny_data())


def test_a_student_whose_weights_are_on_meta_is_refused():
    student = Student(tiny_model().to("meta"), 1, input_size=(3, 16, 16))
    with pytest.raises(ValueError, match=r"weight of the student is on meta; expected a tensor w"):
        School(student, Faculty([]), Curriculum([Grade(1, range(6))]), tiny_data())


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Identity(), nn.ReLU()])
def test_a_student_that_gives_probabilities_is_told(end):
    """Its losses would be those of a softmax of a softmax, from which it hardly learns."""
    student = Student(nn.Sequential(tiny_model(), end), 1, input_size=(3, 16, 16))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        School(student, Faculty([]), Curriculum([Grade(1, range(6))]), tiny_data())
    expected = ["the student gives probabilities; expected logits, as they are before a softmax"]
    assert [str(w.message) for w in caught] == expected * isinstance(end, nn.Softmax)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_images_is_named_before_anything_is_taught(split):
    data = tiny_data()
    samples = getattr(data, split)
    data = replace(data, **{split: samples.subset(np.flatnonzero(samples.labels != 5))})
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    curriculum = Curriculum([Grade(1, range(5)), Grade(1, [5])])
    with pytest.raises(UserError, match=rf"{split} of tiny has no image of class 5 \(c5\)"):
        School(student, Faculty([]), curriculum, data)


def on_a_gpu_of_its_number() -> str:
    case = CASES["target none"]
    try:
        case.school(device="cuda:1")
    except UserError as error:
        return str(error)
    return ""


def test_a_school_says_on_every_rank_what_it_refuses():
    assert all("cuda:1" in message for message in on_ranks(on_a_gpu_of_its_number))
