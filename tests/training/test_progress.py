"""Where a training stands, and what it has cost."""

import math
import time

import pytest

from edufast.training.progress import Progress


def test_phases_add_up_also_where_one_fails():
    at = Progress()
    for _ in range(2):
        with at.phase("data"):
            time.sleep(0.001)
    with pytest.raises(KeyError), at.phase("student"):
        raise KeyError
    assert set(at.phases) == {"data", "student"} and at.phases["data"] >= 0.002


def test_waiting_is_a_share_of_the_time_outside_validation():
    assert Progress().data_wait == 0
    at = Progress(seconds=5.0, phases={"data": 1.0, "validation": 1.0})
    assert at.data_wait == 0.25


def test_numbers_that_a_training_can_have_pass():
    Progress().check()
    Progress(grade=2, epoch=3, loss_sum=-1.5, accuracy=math.nan).check(grade=2, epoch=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grade": 3}, "grade is 3; expected 0 to 2"),
        ({"samples": -1}, "samples is -1; expected at least 0"),
        ({"best_epoch": 0.5}, "best_epoch is 0.5; expected an integer"),
        ({"samples": 1.0}, "samples is 1.0; expected an integer"),
        ({"seconds": "x"}, "seconds is 'x'; expected a number"),
        ({"phases": {"data": -1.0}}, "data is -1.0; expected at least 0"),
    ],
)
def test_numbers_that_cannot_be_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Progress(**fields).check(grade=2)
