"""Choosing the confidence at which images leave."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.edge.exit_choice import Exits, Target, accuracy_on_others, choose
from edufast.utils.errors import UserError

COST = np.array([0.3, 1.1])


def exits(first: list[tuple[float, bool]], last: list[bool]) -> Exits:
    """Two exits: confidence and rightness of the first, rightness of the last, which is the whole
    student."""
    sure, right = zip(*first, strict=True)
    confidence = np.array([sure, [0.5] * len(first)], np.float32)
    return Exits(confidence, np.array([right, last]), COST, np.array(last))


def test_the_cheapest_threshold_within_the_points_that_may_be_lost_is_taken() -> None:
    # Ten images, the first exit wrong about those that it is unsure of.
    given = exits([(n / 10, n > 3) for n in range(10)], [True] * 10)
    none = choose(given, Target(0.0, of_cost=False))
    assert none is not None and 0.3 < none <= 0.4
    assert given.measure(none) == pytest.approx((1.0, 0.6 * 0.3 + 0.4 * 1.1))
    one = choose(given, Target(10.0, of_cost=False))
    assert one is not None and 0.2 < one <= 0.3
    assert given.measure(one)[0] == pytest.approx(0.9)
    everything = choose(given, Target(100.0, of_cost=False))
    assert everything is not None and given.left_at(everything).tolist() == [0] * 10


def test_the_most_accurate_threshold_of_a_cost_is_taken() -> None:
    # A first exit that is right where the last is not: leaving early is better.
    given = exits([(n / 10, n > 4) for n in range(10)], [n <= 6 for n in range(10)])
    chosen = choose(given, Target(1.0, of_cost=True))
    assert chosen is not None and given.measure(chosen) == pytest.approx((1.0, 0.7))
    tight = choose(given, Target(0.4, of_cost=True))
    assert tight is not None and given.measure(tight)[1] <= 0.4
    assert choose(given, Target(0.2, of_cost=True)) is None


def test_there_is_none_where_the_file_has_lost_more_already() -> None:
    given = exits([(0.5, False)] * 4, [True] * 4)
    worse = Exits(given.confidence, given.right & False, COST, given.right_whole)
    assert choose(worse, Target(50.0, of_cost=False)) is None
    assert accuracy_on_others(worse, Target(50.0, of_cost=False)) == 0


def test_each_half_is_measured_with_the_threshold_of_the_other() -> None:
    # Even images are safe above 0.1, odd ones only above 0.8.
    first = [(n / 20, n > 2 if n % 2 == 0 else n > 16) for n in range(20)]
    given = exits(first, [True] * 20)
    target = Target(0.0, of_cost=False)
    halves = [given.part(slice(start, None, 2)) for start in (0, 1)]
    thresholds = [choose(half, target) for half in halves]
    assert thresholds[0] is not None and thresholds[1] is not None
    assert thresholds[0] < 0.5 < thresholds[1]
    expected = (halves[0].measure(thresholds[1])[0] + halves[1].measure(thresholds[0])[0]) / 2
    assert accuracy_on_others(given, target) == pytest.approx(expected)
    assert expected < 1 == given.measure(choose(given, target) or 0)[0]


def test_confidences_are_probabilities_of_the_most_probable_class() -> None:
    logits = np.array([[[0.0, np.log(3)], [1000.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]], np.float32)
    found = Exits.of(logits, np.array([1, 1]), COST, np.array([True, True]))
    assert found.confidence[0] == pytest.approx([0.75, 1.0])
    assert found.right.tolist() == [[True, False], [False, True]]
    assert found.left_at(0.8).tolist() == [1, 0] and found.left_at(1.0).tolist() == [1, 0]


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "101", "60%%", "%"])
def test_a_target_that_makes_no_sense_is_one_line(text) -> None:
    with pytest.raises(UserError, match="expected points of accuracy that may be lost"):
        Target.parse(text)


def test_targets_are_points_or_a_share_of_the_cost() -> None:
    assert Target.parse("0.5") == Target(0.5, of_cost=False)
    assert Target.parse("60%") == Target(0.6, of_cost=True)
