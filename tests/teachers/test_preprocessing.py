"""Teachers look at images as they learned to, whatever the student is shown."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edufast.data import Loader
from edufast.distill import create_algorithm
from edufast.models.image_format import ImageFormat
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.preprocessing import Preprocess
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from tests.tiny import TRAINING, tiny_data, tiny_model

DATA = tiny_data()
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CPU = torch.device("cpu")


def shown(data, count=8):
    """Training images as the student is shown them, and as pixels in [0, 1]."""
    format = {"image_size": data.image_size, "batch_size": count}
    loader = Loader(data.train, mean=data.mean, std=data.std, **format)
    pixels = torch.from_numpy(data.train.images[:count]).permute(0, 3, 1, 2) / 255
    return next(loader.epoch(0)), pixels


def normalised(pixels, mean, std):
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("size", [None, 16, 12, 24])
@pytest.mark.parametrize("own", [{}, IMAGENET, {"std": (0.5, 0.4, 0.3)}])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("stored", [False, True])
def test_a_teacher_looks_at_images_as_it_learned_to(tmp_path, size, own, dtype, stored):
    teacher = Teacher(tiny_model().eval(), range(6), image_size=size, **own)
    arguments = {"stored_dtype": torch.float32} if stored else {}
    kind, folder = (CachedFaculty, [tmp_path]) if stored else (Faculty, [])
    faculty = kind([teacher], *folder, dtype=dtype, **arguments)
    faculty.prepare(DATA, TRAINING.augment)
    batch, pixels = shown(DATA)
    batch = batch._replace(views=9 * batch.index + 4)  # the middle one of 9
    if size is not None:
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    images = normalised(pixels, own.get("mean", DATA.mean), own.get("std", DATA.std))
    with torch.no_grad():
        expected = teacher.model(images)
    tolerance = 1e-4 if dtype is None else 0.1
    for _ in range(2):  # computed, and what was stored
        logits = faculty.answer(0, batch, slice(None)).logits
        torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)


def test_what_agrees_costs_nothing():
    format = ImageFormat((0.3,) * 3, (0.2,) * 3, 16)
    images = torch.randn(2, 3, 16, 16)
    for wanted in (format, format._replace(size=None)):
        assert Preprocess(format, wanted, CPU)(images) is images
    images = images.to(memory_format=torch.channels_last)
    other = Preprocess(format, ImageFormat(*IMAGENET.values(), 24), CPU)(images)
    assert other.is_contiguous(memory_format=torch.channels_last)


def test_features_and_flops_are_those_at_its_own_size():
    plain = Teacher(tiny_model(), range(6))
    large = replace(plain, image_size=32)
    assert Faculty([large]).flops(0, (3, 16, 16)) == Faculty([plain]).flops(0, (3, 32, 32))
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    curriculum = Curriculum.single(range(6), 1, teachers=[0], target="full")
    school = School(
        student,
        Faculty([large]),
        curriculum,
        DATA,
        algorithm=create_algorithm("fitnet"),
        training=TRAINING,
    )
    school.fit()
    (taps,) = school.plans[0].supervision.taps
    assert taps.shapes[0] == (8, 16, 16)


def test_schools_of_other_data_share_a_faculty():
    faculty = Faculty([Teacher(tiny_model().eval(), range(6), **IMAGENET)])

    def school(data):
        student = Student(tiny_model(), 1, input_size=(3, 16, 16))
        return School(student, faculty, Curriculum.single(range(6), 1), data, training=TRAINING)

    first = school(DATA)
    school(replace(DATA, mean=(-5.0,) * 3))
    first.begin_grade()
    batch, pixels = shown(DATA)
    with torch.no_grad():
        expected = faculty[0].model(normalised(pixels, *IMAGENET.values()))
    torch.testing.assert_close(faculty.logits(0, batch.images), expected, atol=1e-4, rtol=1e-4)


def test_nobody_guesses_what_the_images_are():
    faculty = Faculty([Teacher(tiny_model(), range(6), "carl", mean=(0.5, 0.5, 0.5))])
    with pytest.raises(RuntimeError, match=r"teacher 0 \(carl\) expects images with its own mean"):
        faculty.logits(0, torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"carl: mean is \(0\.5, 0\.5\); expected 3 finite numbers up to 1"),
        ({"mean": (0.5, 0.5, np.nan)}, "expected 3 finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, r"std is .*; expected 3 finite numbers above 0"),
        ({"image_size": 0}, "carl: image_size is 0; expected at least 1"),
        ({"image_size": 7.5}, "image_size is 7.5"),
    ],
)
def test_formats_there_are_not(value, message):
    with pytest.raises(ValueError, match=message):
        Teacher(tiny_model(), range(6), "carl", **value)


# --- teachers that do not know their classes ----------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    return School(
        student, Faculty([]), Curriculum.single(range(6), 8), DATA, training=TRAINING
    ).fit()


def warned(teacher, data):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Faculty([teacher]).prepare(data, TRAINING.augment)
    return [str(w.message) for w in seen if w.category is UserWarning]


def test_a_teacher_near_chance_is_named_in_a_line(taught):
    others = replace(DATA, mean=(-5.0,) * 3)
    assert warned(Teacher(taught, range(6), "anna"), DATA) == []
    (message,) = warned(Teacher(taught, range(6), "anna"), others)
    assert message.startswith("teacher 0 (anna) is right about ") and "\n" not in message
    assert "of 64 training images of its 6 classes, hardly more than chance" in message
    assert warned(Teacher(taught, range(6), mean=DATA.mean, std=DATA.std), others) == []
    (message,) = warned(Teacher(taught, [1, 2, 3, 4, 5, 0]), DATA)
    assert "in the order of its logits" in message


def test_a_school_looks_once_and_at_no_random_numbers(taught, monkeypatch):
    faculty, asked = Faculty([Teacher(taught, range(6))]), []
    logits = Faculty.logits

    def counted(self, k, images, **options):
        asked.append(len(images))
        return logits(self, k, images, **options)

    monkeypatch.setattr(Faculty, "logits", counted)
    before = torch.get_rng_state()
    for _ in range(2):
        faculty.prepare(DATA, TRAINING.augment)
    assert asked == [1, 16, 16, 16, 16] and torch.equal(torch.get_rng_state(), before)


def test_one_class_or_few_images_say_nothing():
    assert warned(Teacher(tiny_model(1), [3]), DATA) == []
    few = replace(DATA, train=DATA.train.subset(np.array([0, 30])))
    assert warned(Teacher(tiny_model(2), [0, 1]), few) == []
    assert warned(Teacher(tiny_model(2), [4, 5]), few) == []  # none of them is there
