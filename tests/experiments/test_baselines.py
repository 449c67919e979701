"""Curricula of baselines."""

from dataclasses import replace

import pytest

from edufast.experiments.baselines import (
    growing_sizes,
    plain_distillation,
    samples_of_grades,
    single_grade,
    without_teachers,
)
from edufast.experiments.recipe import AlgorithmSection
from edufast.training.curriculum import Curriculum, Grade
from tests.tiny import tiny_data

DATA = tiny_data()  # six classes of 24 training samples
EDUCATION = Curriculum(
    [
        Grade(2, (0, 1), teachers=(0,)),
        Grade(3, (2, 3, 4, 5), teachers=(0, 1), samples=50, freeze=(0.5,)),
    ],
    exit_weight=0.3,
)


def test_samples_are_of_whole_batches_and_at_least_one():
    assert samples_of_grades(EDUCATION, DATA, 16) == [2 * 48, 3 * 48]
    assert samples_of_grades(EDUCATION, DATA, 20) == [2 * 40, 3 * 40]
    assert samples_of_grades(EDUCATION, DATA, 1000) == [2 * 48, 3 * 50], "less than a batch"


def test_a_single_grade_has_all_classes_and_about_as_many_epochs():
    found = single_grade(EDUCATION, 240, 16, (2,), "full")
    (grade,) = found.grades
    assert grade.classes == (0, 1, 2, 3, 4, 5)
    assert (grade.teachers, grade.target) == ((2,), "full")
    assert (grade.epochs, grade.samples) == (5, 48)  # 15 steps in five epochs of three
    assert single_grade(EDUCATION, 32, 16, (), "none").grades[0].epochs == 2, "a step an epoch"


@pytest.mark.parametrize("schedule", ["held", "paper"])
def test_a_single_grade_has_the_schedule_of_the_curriculum(schedule):
    education = replace(EDUCATION, schedule=schedule)
    assert single_grade(education, 240, 16, (2,), "full").schedule == schedule


def test_without_teachers_everything_else_stays():
    found = without_teachers(EDUCATION, 240, 16, DATA)
    assert [grade.target for grade in found.grades] == ["none", "none"]
    assert found.exit_weight == 0.3
    # Nothing else changes where as many samples are asked for as there are.
    taught = [replace(g, teachers=(), target="none") for g in EDUCATION.grades]
    assert list(found.grades) == taught


@pytest.mark.parametrize(("factor", "samples"), [(2, [96, 96]), (1 / 3, [16, 16])])
def test_every_grade_is_scaled_alike(factor, samples):
    found = without_teachers(EDUCATION, round(240 * factor), 16, DATA)
    assert [grade.samples for grade in found.grades] == samples
    assert [grade.epochs for grade in found.grades] == [2, 3]


@pytest.mark.parametrize(("factor", "samples"), [(1, [48, 48]), (2, [96, 96])])
def test_sizes_grow_and_nothing_else(factor, samples):
    first, last = EDUCATION.grades
    small = replace(EDUCATION, grades=[replace(first, image_size=8), last])
    found = growing_sizes(small, 240 * factor, 16, DATA, (2,), "full")
    assert [grade.image_size for grade in found.grades] == [8, None]
    assert [grade.samples for grade in found.grades] == samples
    assert [grade.epochs for grade in found.grades] == [2, 3]
    assert found.fragments == (1, 1) and found.taught(0) == found.class_map
    assert found.class_map.ids == EDUCATION.class_map.ids
    assert {(grade.teachers, grade.target) for grade in found.grades} == {((2,), "full")}
    assert not any(grade.freeze for grade in found.grades) and found.exit_weight == 0


def test_plain_distillation_keeps_what_means_the_same():
    section = AlgorithmSection(name="js", temperature=3.0, weighting="entropy")
    assert plain_distillation(section) == AlgorithmSection(name="kd", temperature=3.0)
    section = AlgorithmSection(name="dkd", temperature=3.0)
    assert plain_distillation(section) == AlgorithmSection(name="kd")
