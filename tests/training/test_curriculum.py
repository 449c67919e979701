import math

import numpy as np
import pytest
import torch

from edufast.training.curriculum import PAPER_EPOCHS, Curriculum, Grade
from tests.tiny import tiny_faculty

SLICES = [range(0, 4), range(4, 7), range(7, 10)]


def test_graded_preset_grows_classes_fragments_and_teachers_together():
    curriculum = Curriculum.graded(SLICES, 16, full_teacher=3)
    assert [g.epochs for g in curriculum.grades] == [2, 2, 12]
    assert curriculum.fragments == (1, 2, 3)
    assert [g.teachers for g in curriculum.grades] == [(0,), (0, 1), (3,)]
    assert [g.target for g in curriculum.grades] == ["gated", "gated", "full"]
    assert curriculum.class_map.ids == tuple(range(10))
    assert curriculum.taught(1).ids == tuple(range(7))
    assert curriculum.exit_weight > 0
    # Half-way through the last grade the first fragment is done.
    assert [g.freeze for g in curriculum.grades] == [(), (), (0.5,)]
    assert [curriculum.grades[-1].frozen(epoch) for epoch in (0, 5, 6, 11)] == [0, 0, 1, 1]


def test_graded_preset_takes_image_sizes_and_has_grades_for_all_of_them():
    few = Curriculum.graded(SLICES, 12, image_sizes=[16])
    assert [grade.image_size for grade in few.grades] == [16, None, None]
    many = Curriculum.graded(SLICES, 12, image_sizes=[12, 16, 24], full_teacher=3)
    assert [grade.image_size for grade in many.grades] == [12, 16, 24, None]
    assert many.fragments == (1, 2, 3, 3)
    assert [grade.classes for grade in many.grades] == [*map(tuple, SLICES), ()]
    assert [grade.teachers for grade in many.grades] == [(0,), (0, 1), (3,), (3,)]
    assert [grade.target for grade in many.grades] == ["gated", "gated", "full", "full"]
    assert [grade.freeze for grade in many.grades] == [(), (), (), (0.5,)]
    assert Curriculum.graded(SLICES, 12, image_sizes=[12, 16, 24]).grades[3].teachers == (0, 1, 2)


def test_photographs_grow_whoever_teaches():
    full = Curriculum.photographs([range(10)], 11, image_size=32, full_teacher=0)
    assert [grade.image_size for grade in full.grades] == [12, 16, 24, None]
    assert [grade.epochs for grade in full.grades] == [2, 2, 3, 4]
    assert full.fragments == (1, 1, 1, 1) and full.exit_weight == 0
    assert [grade.target for grade in full.grades] == ["full"] * 4
    assert full.taught(0).ids == tuple(range(10)) and not any(g.freeze for g in full.grades)

    slices = Curriculum.photographs([*SLICES, [10], [11]], 11, image_size=64)
    assert [grade.image_size for grade in slices.grades] == [24, 32, 48, None, None]
    assert [grade.epochs for grade in slices.grades] == [2, 2, 3, 2, 2]
    assert set(slices.fragments) == {1} and slices.grades[4].teachers == (0, 1, 2, 3, 4)
    own = Curriculum.photographs(SLICES[:2], 8, image_size=32, shares=[1, 1, 1, 1], samples=50)
    assert [(grade.epochs, grade.samples) for grade in own.grades] == [(2, 50)] * 4
    with pytest.raises(ValueError, match="slices is 3; expected a sequence of classes for each"):
        Curriculum.photographs(3, 8, image_size=32)
    with pytest.raises(ValueError, match="fragments is 0"):
        Curriculum.graded(SLICES, 8, fragments=0)
    with pytest.raises(ValueError, match="image_size is 0"):
        Curriculum.photographs(SLICES, 8, image_size=0)


def test_a_single_grade_is_divided_among_image_sizes():
    curriculum = Curriculum.single(range(4), 7, image_sizes=[8, 12])
    assert [(g.epochs, g.image_size) for g in curriculum.grades] == [(2, 8), (3, 12), (2, None)]
    assert curriculum.fragments == (1, 1, 1) and curriculum.taught(0).ids == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="epochs is 2; expected at least 3"):
        Curriculum.single(range(4), 2, image_sizes=[8, 12])


def test_freezing_can_be_chosen_and_never_takes_the_last_fragment():
    grade = Curriculum.graded(SLICES, 12, shares=[1, 1, 1], freeze=[0.0, 0.6]).grades[-1]
    assert [grade.frozen(epoch) for epoch in range(4)] == [1, 1, 1, 2]
    assert Curriculum.graded(SLICES, 16, freeze=[]).grades[-1].freeze == ()
    assert Curriculum.graded(SLICES[:1], 16).grades[-1].freeze == ()


@pytest.mark.parametrize("epochs", [3, 4, 5, 8, 17, 240])
def test_shares_fill_every_epoch_and_leave_no_grade_empty(epochs):
    lengths = [g.epochs for g in Curriculum.graded(SLICES, epochs).grades]
    assert sum(lengths) == epochs and min(lengths) >= 1


def test_shares_may_be_a_tensor():
    grades = Curriculum.graded(SLICES, 12, shares=torch.tensor([1.0, 2.0, 3.0])).grades
    assert [grade.epochs for grade in grades] == [2, 4, 6]


def test_paper_preset_is_the_authors_schedule():
    curriculum = Curriculum.paper(SLICES)
    assert tuple(g.epochs for g in curriculum.grades) == PAPER_EPOCHS == (150, 30, 60)
    assert (curriculum.order, curriculum.schedule) == ("slices", "paper")
    assert not curriculum.keep_state and not curriculum.exit_weight
    assert not any(g.freeze for g in curriculum.grades)
    assert {g.target for g in curriculum.grades} == {"routed"}
    # x0.1 at epochs 150, 180 and 210, with the grades changing at the first two.
    steps = [150, 30, 60]
    rates = [curriculum.learning_rate(g, s, steps) for g in range(3) for s in range(steps[g])]
    assert [rates[e] for e in (0, 149)] == [1.0, 1.0]
    assert [rates[e] for e in (150, 179, 180, 209, 210, 239)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_held_schedule_warms_up_in_every_grade_and_anneals_in_the_last_only():
    curriculum = Curriculum.graded(SLICES, 3)
    steps = [200, 200, 200]
    for g in range(3):
        assert curriculum.learning_rate(g, 0, steps) < 0.1
        assert curriculum.learning_rate(g, 20, steps) == 1.0
    assert curriculum.learning_rate(1, 199, steps) == 1.0
    assert curriculum.learning_rate(2, 110, steps) == pytest.approx(0.5)
    assert curriculum.learning_rate(2, 199, steps) < 1e-3


def test_restart_schedule_anneals_every_grade():
    curriculum = Curriculum([Grade(1, [0]), Grade(1, [1])], schedule="restart")
    assert curriculum.learning_rate(0, 99, [100, 100]) < 1e-3
    assert curriculum.learning_rate(1, 10, [100, 100]) == 1.0


@pytest.mark.parametrize("schedule", ["held", "restart", "paper"])
def test_every_rate_is_finite_and_positive_even_for_one_step(schedule):
    curriculum = Curriculum([Grade(1, [0]), Grade(1, [1])], schedule=schedule)
    for steps in ([1, 1], [2, 3], [500, 700]):
        for g in range(2):
            for step in range(steps[g]):
                rate = curriculum.learning_rate(g, step, steps)
                assert math.isfinite(rate) and 0 < rate <= 1


def test_class_growth_and_depth_growth_are_independent():
    depth_only = Curriculum([Grade(1, range(10)), Grade(1), Grade(2)])
    assert depth_only.fragments == (1, 2, 3)
    assert [len(depth_only.taught(g)) for g in range(3)] == [10, 10, 10]
    classes_only = Curriculum([Grade(1, [2, 0], fragments=1), Grade(1, [1], fragments=1)])
    assert classes_only.fragments == (1, 1)
    assert classes_only.class_map.ids == (2, 0, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Curriculum([]), "grades is empty"),
        (lambda: Curriculum([Grade(1)]), "grade 1 adds no classes"),
        (lambda: Curriculum([Grade(1, [0, 1]), Grade(1, [1])]), "class 1 is added by grade 1"),
        (lambda: Curriculum([Grade(1, [0])], order="random"), "order is 'random'"),
        (lambda: Curriculum([Grade(1, [0])], schedule="none"), "schedule is 'none'"),
        (lambda: Curriculum([Grade(1, [0], fragments=2), Grade(1, fragments=1)]), "never fewer"),
        (lambda: Grade(0, [0]), "epochs is 0"),
        (lambda: Grade(1, [0], samples=0), "samples is 0"),
        (lambda: Grade(1.5, [0]), "epochs is 1.5; expected an integer"),
        (lambda: Grade(math.inf, [0]), "epochs is inf; expected an integer"),
        (lambda: Grade(1, [0], fragments=0), "fragments is 0; expected at least 1"),
        (lambda: Grade(1, [-1]), "classes is -1; expected at least 0"),
        (lambda: Grade(1, [0], ["0"]), "teachers is '0'; expected an integer"),
        (lambda: Grade(1, [0], image_size=8.5), "image_size is 8.5; expected an integer"),
        (lambda: Curriculum.graded(SLICES, 6, shares=[1, 2]), "shares has 2 numbers; expected 3"),
        (lambda: Curriculum.graded(SLICES, 6, shares=[1] * 4), "shares has 4 numbers; expected 3"),
        (lambda: Curriculum.graded(SLICES, 6, shares=[0, 1, 1]), "expected positive numbers"),
        (lambda: Curriculum.graded(SLICES, 6, shares=[1e308] * 3), "numbers of a finite sum"),
        (lambda: Curriculum.graded(SLICES, 6, shares=[-1, 1, 1]), "shares is -1; expected"),
        (lambda: Curriculum.graded(SLICES, 6, image_sizes=[12, 8]), "expected rising sizes"),
        (lambda: Curriculum.single([0], 6, image_sizes=[12, 8]), "expected rising sizes"),
        (lambda: Grade(1, [0], freeze=[0.5, 0.2]), "rising shares from 0 to 1"),
        (lambda: Grade(1, [0], freeze=[1.5]), "rising shares from 0 to 1"),
        (lambda: Curriculum([Grade(1, [0], freeze=[0])]), "the last one to keep learning"),
        (lambda: Curriculum([Grade(1, [0])], exit_weight=-1), "exit_weight is -1"),
        (lambda: Curriculum([Grade(1, [0])], exit_weight=math.nan), "exit_weight is nan"),
        (lambda: Grade(1, [0], rehearsal=1), "rehearsal is 1; expected a share"),
        (lambda: Curriculum([Grade(1, [0], rehearsal=0.5)]), "rehearsal is 0.5 in grade 1"),
        (
            lambda: Curriculum([Grade(1, [0]), Grade(1, [1], rehearsal=0.5)], order="slices"),
            "rehearsal is 0.5 in grade 2",
        ),
        (lambda: Grade(1, [0], image_size=0), "image_size is 0"),
        (lambda: Curriculum([Grade(1, [0], image_size=8)]), "image_size is 8 in the last grade"),
        (lambda: Grade(1, [0], [0], target="half"), "target is 'half'"),
        (lambda: Grade(1, [0], [0], target="none"), "exactly when there is a target"),
        (lambda: Grade(1, [0], [], target="routed"), "exactly when there is a target"),
        (lambda: Curriculum.graded(SLICES, 2), "epochs is 2; expected at least 3"),
        (lambda: Curriculum.paper(SLICES[:2]), "3 grades; there are 2 slices"),
    ],
)
def test_errors_name_value_and_expectation(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_numbers_of_numpy_become_numbers_of_python():
    grade = Grade(np.int64(2), np.arange(3), [np.int64(0)], samples=np.int64(5))
    numbers = [grade.epochs, *grade.classes, *grade.teachers, grade.samples]
    assert {type(number) for number in numbers} == {int}


def test_teachers_are_shown_what_their_targets_need():
    faculty = tiny_faculty(range(3), range(3, 6), range(6))
    grades = [
        Grade(1, [0, 1, 2]),
        Grade(1, [3, 4], [0], target="gated"),
        Grade(1, [5], [0, 1], target="routed"),
        Grade(1, [], [2], target="full"),
    ]
    asked = Curriculum(grades).shown_to(faculty)
    assert asked == {0: {0, 1, 2, 3, 4}, 1: {3, 4, 5}, 2: set(range(6))}
    early = Curriculum([Grade(1, [1, 2], [0], target="routed")])
    assert early.shown_to(faculty) == {0: {1, 2}}, "not those of later grades"
