"""Which numbers of events are drawn, under which names."""

from __future__ import annotations

from edufast.experiments.trackers.curves import Point, point
from tests.experiments.trackers.events import EPOCH, PHASE, STEPS, TEACHER


def test_a_step_is_drawn_at_the_samples_seen_so_far():
    values = {
        "education-0/loss": 1.0,
        "education-0/lr": 0.5,
        "education-0/images_per_second": 9.0,
    }
    assert point(STEPS[1]) == Point(640, values)


def test_an_epoch_and_a_teacher_have_curves_of_their_own():
    assert point(EPOCH).values["education-0/accuracy"] == 0.5
    assert point(TEACHER) == Point(100, {"teacher-2/accuracy": 0.75, "teacher-2/seconds": 3.0})


def test_what_is_no_curve_is_not_drawn():
    assert point(PHASE) is None
