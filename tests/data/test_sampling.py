from __future__ import annotations

import numpy as np
import pytest

from edufast.data import MixedSampler, SliceSampler
from edufast.data.sampling import _apportioned, repeated

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 10))


def test_an_epoch_is_every_sample_of_the_classes_once_shuffled():
    order = MixedSampler(LABELS, [[1, 4]], batch_size=5, seed=0)(3)
    assert order.dtype == np.int64
    assert sorted(order) == np.flatnonzero(np.isin(LABELS, [1, 4])).tolist()
    assert order.tolist() != sorted(order)


def test_the_order_is_a_function_of_seed_and_epoch():
    groups = [[0, 1], [2, 3, 4, 5]]
    order = MixedSampler(LABELS, groups, batch_size=6, seed=0)(5)
    assert np.array_equal(order, MixedSampler(LABELS, groups, batch_size=6, seed=0)(5))
    assert not np.array_equal(order, MixedSampler(LABELS, groups, batch_size=6, seed=1)(5))
    assert not np.array_equal(order, MixedSampler(LABELS, groups, batch_size=6, seed=0)(4))


# Shorter than a pass, not dividing it, a whole one, longer than one, several.
@pytest.mark.parametrize("length", [1, 7, 20, 33, 60])
def test_epochs_of_any_length_read_one_sequence_of_whole_passes(length):
    sampler = MixedSampler(LABELS, [[0, 5]], batch_size=1, seed=2, samples_per_epoch=length)
    epochs = [sampler(epoch) for epoch in range(60)]
    assert {len(epoch) for epoch in epochs} == {length} == {len(sampler)}
    visited = np.concatenate(epochs)
    passes = visited[: len(visited) // 20 * 20].reshape(-1, 20)
    assert (np.sort(passes, axis=1) == np.flatnonzero(np.isin(LABELS, [0, 5]))).all()
    assert len({tuple(order) for order in passes.tolist()}) == len(passes)


# Groups that share a batch evenly, that do not, the smallest batch, one that holds everything.
@pytest.mark.parametrize(
    ("batch", "quotas"), [(6, [1, 2, 3]), (16, [3, 5, 8]), (3, [1, 1, 1]), (64, [10, 20, 30])]
)
def test_every_batch_has_the_same_number_of_each_group(batch, quotas):
    groups = [[3], [0, 4], [5, 1, 2]]
    sampler = MixedSampler(LABELS, groups, batch_size=batch, seed=4)
    assert sampler.quotas == quotas and sampler.batch_size == sum(quotas)
    epochs = [sampler(epoch) for epoch in range(8)]
    assert all(len(epoch) == len(sampler) == 60 // sum(quotas) * sum(quotas) for epoch in epochs)
    for drawn in np.concatenate(epochs).reshape(-1, sum(quotas)):
        labels = np.split(LABELS[drawn], np.cumsum(quotas)[:-1])
        assert all(np.isin(part, group).all() for part, group in zip(labels, groups, strict=True))


def test_every_sample_of_a_group_comes_once_per_pass_whatever_the_quotas():
    groups = [[3], [0, 4], [5, 1, 2]]
    sampler = MixedSampler(
        LABELS, groups, batch_size=16, seed=4
    )  # quotas 3, 5, 8: no whole passes an epoch
    visited = np.concatenate([sampler(epoch) for epoch in range(20)])
    for group in groups:
        samples = np.flatnonzero(np.isin(LABELS, group))
        sequence = visited[np.isin(LABELS[visited], group)]
        passes = sequence[: len(sequence) // len(samples) * len(samples)].reshape(-1, len(samples))
        assert (np.sort(passes, axis=1) == samples).all()
        assert len({tuple(order) for order in passes.tolist()}) == len(passes)


def test_groups_are_shuffled_apart():
    """Samples of groups of one size must not always meet in the same batch."""
    sampler = MixedSampler(LABELS, [[0], [1]], batch_size=2, seed=0)
    pairs = np.concatenate([sampler(epoch) for epoch in range(10)]).reshape(-1, 2)
    assert len(np.unique(pairs, axis=0)) > 50


# Few samples in a group next to many: each gets one, at the cost of the largest.
@pytest.mark.parametrize(
    ("total", "sizes", "expected"),
    [
        (10, [1, 1], [5, 5]),
        (10, [1, 1, 1], [4, 3, 3]),
        (4, [1000, 1, 1], [2, 1, 1]),
        (8, [1, 999], [1, 7]),
    ],
)
def test_quotas_are_the_largest_remainders_and_never_nothing(total, sizes, expected):
    assert _apportioned(total, sizes) == expected


def test_slices_come_one_after_another_each_shuffled():
    sampler = SliceSampler(LABELS, [[2, 3], [0]], seed=0)
    order = sampler(1)
    assert len(order) == len(sampler) == 30
    assert sorted(order[:20]) == np.flatnonzero(np.isin(LABELS, [2, 3])).tolist()
    assert sorted(order[20:]) == np.flatnonzero(LABELS == 0).tolist()
    assert len(set(LABELS[order[:20]][:10])) == 2
    assert np.array_equal(order, SliceSampler(LABELS, [[2, 3], [0]], seed=0)(1))


def test_slices_share_the_samples_of_an_epoch_by_their_size():
    sampler = SliceSampler(LABELS, [[0, 1, 2], [3], [4, 5]], seed=0, samples_per_epoch=13)
    labels = LABELS[sampler(0)]
    assert len(labels) == len(sampler) == 13
    assert (labels[:6] <= 2).all() and (labels[6:9] == 3).all() and (labels[9:] >= 4).all()


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="class 7 has no sample"):
        MixedSampler(LABELS, [[0], [7]], batch_size=4, seed=0)
    with pytest.raises(ValueError, match="class 6 has no sample"):
        SliceSampler(LABELS, [[0], [6]], seed=0)
    with pytest.raises(ValueError, match="groups: expected at least one"):
        MixedSampler(LABELS, [], batch_size=4, seed=0)
    with pytest.raises(ValueError, match="classes: expected at least one"):
        MixedSampler(LABELS, [[0], []], batch_size=4, seed=0)
    with pytest.raises(ValueError, match="groups: a class is in two groups"):
        MixedSampler(LABELS, [[0, 1], [1]], batch_size=4, seed=0)
    with pytest.raises(ValueError, match="batch_size: 2 is less than the 3 groups"):
        MixedSampler(LABELS, [[0], [1], [2]], batch_size=2, seed=0)
    with pytest.raises(ValueError, match="slices: expected at least one"):
        SliceSampler(LABELS, [], seed=0)
    with pytest.raises(ValueError, match="samples_per_epoch is 0; expected at least 1"):
        MixedSampler(LABELS, [[0]], batch_size=4, seed=0, samples_per_epoch=0)
    with pytest.raises(ValueError, match="samples_per_epoch: 1 leaves a slice"):
        SliceSampler(LABELS, [[0], [1]], seed=0, samples_per_epoch=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1.5}, "batch_size is 1.5; expected an integer"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"samples_per_epoch": "9"}, "samples_per_epoch is '9'; expected an integer"),
        ({"weights": [0.0]}, r"weights is \[0.0\]; expected 1 numbers above 0"),
        ({"weights": [1, 1]}, r"weights is \[1, 1\]; expected 1 numbers"),
        ({"balance": 2}, "balance is 2; expected a number from 0 to 1"),
        ({"groups": [[0.5]]}, "classes is 0.5; expected an integer"),
        ({"groups": [3]}, "classes is 3; expected a sequence of integers"),
    ],
    ids=str,
)
def test_numbers_of_a_wrong_kind_are_named_in_one_line(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        MixedSampler(LABELS, **{"groups": [[0, 1]], "batch_size": 4, "seed": 0} | options)


# Of 40, 10 and 5 images, in no order.
UNEVEN = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [40, 10, 5]))


@pytest.mark.parametrize(
    ("balance", "times"), [(0.0, [1, 1, 1]), (0.5, [1, 2, 3]), (1.0, [1, 4, 8])]
)
def test_rare_classes_come_as_often_as_balance_says(balance, times):
    samples = np.arange(len(UNEVEN))
    found = repeated(samples, UNEVEN, balance)
    for label, count in enumerate(times):
        of_class = np.bincount(found, minlength=len(UNEVEN))[label == UNEVEN]
        assert (of_class == count).all()


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_balanced_epochs_are_no_longer_and_visit_every_sample(balance):
    sampler = MixedSampler(UNEVEN, [[0, 1, 2]], batch_size=11, seed=0, balance=balance)
    assert len(sampler) == 55
    shown = np.concatenate([sampler(epoch) for epoch in range(24)])
    shares = np.bincount(UNEVEN[shown]) / len(shown)
    expected = [1 / 3] * 3 if balance else np.array([40, 10, 5]) / 55
    assert np.allclose(shares, expected, atol=0.02)
    assert len(np.unique(shown)) == 55


def test_groups_share_a_batch_by_what_they_show():
    assert MixedSampler(UNEVEN, [[0], [1, 2]], batch_size=12, seed=0, balance=1.0).quotas == [4, 8]


def test_slices_share_an_epoch_by_what_they_show():
    sampler = SliceSampler(UNEVEN, [[0], [1, 2]], seed=0, balance=1.0)
    first, rest = np.split(UNEVEN[sampler(0)], [18])
    assert (first == 0).all() and len(rest) == 37 and set(rest) == {1, 2}
    late = np.concatenate([sampler(epoch)[18:] for epoch in range(16)])
    assert (UNEVEN[late] == 2).mean() == pytest.approx(0.5, abs=0.03)


def test_slices_share_whole_batches():
    for batch_size, length in ((32, 32), (11, 55), (100, 55)):
        sampler = SliceSampler(UNEVEN, [[0], [1, 2]], seed=0, batch_size=batch_size)
        shown = UNEVEN[np.concatenate([sampler(epoch) for epoch in range(24)])]
        assert len(sampler) == length and len(shown) == 24 * length
        assert (shown == 0).mean() == pytest.approx(40 / 55, abs=0.02)
