"""The interval of a paired difference of accuracies."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.edge.intervals import paired_difference, proportion


def test_no_changed_answer_still_leaves_an_interval_that_shrinks_with_the_samples() -> None:
    low, high = paired_difference(0, 0, 100)
    assert low == -high and 0.01 < high < 0.03
    assert paired_difference(0, 0, 10_000)[1] < high / 50


def test_it_is_wald_s_interval_of_the_pairs_where_there_are_many() -> None:
    """The standard error of the mean of -1, 0 and 1."""
    pairs = np.repeat([1.0, -1.0, 0.0], [4_000, 6_000, 90_000])
    reach = 1.959964 * pairs.std() / np.sqrt(len(pairs))
    expected = pairs.mean() - reach, pairs.mean() + reach
    assert paired_difference(4_000, 6_000, 100_000) == pytest.approx(expected, abs=2e-5)


def test_the_other_direction_is_the_mirror_image() -> None:
    low, high = paired_difference(3, 11, 200)
    assert paired_difference(11, 3, 200) == (-high, -low) and low < -8 / 200 < high


def test_it_holds_its_level_where_few_answers_change() -> None:
    """Of many small validation splits, at least 95 % of the intervals contain the truth."""
    generator = np.random.default_rng(0)
    gained, lost = 0.004, 0.010
    counts = generator.multinomial(300, [gained, lost, 1 - gained - lost], size=4000)
    bounds = [paired_difference(int(g), int(b), 300) for g, b, _ in counts]
    contains = [low <= gained - lost <= high for low, high in bounds]
    assert np.mean(contains) > 0.95


@pytest.mark.parametrize("gained", [0, 5])
def test_it_stays_within_what_accuracies_can_differ_by(gained: int) -> None:
    low, high = paired_difference(gained, 5 - gained, 5)
    assert -1 <= low < high <= 1


def test_a_proportion_has_wilson_s_interval() -> None:
    """Of 81 of 263, an example of Newcombe (1998), Statistics in Medicine 17, table I."""
    assert proportion(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert proportion(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert proportion(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_the_bounds_of_a_proportion_are_shares() -> None:
    for samples in (1, 2, 50):
        assert proportion(0, samples)[0] == 0 and proportion(samples, samples)[1] == 1
        assert 0 < proportion(samples, samples)[0] == 1 - proportion(0, samples)[1] < 1
