"""Random numbers are functions of where they are used."""

from __future__ import annotations

import numpy as np

from edufast.data.rng import Stream, generator, hashed


def test_a_generator_is_a_function_of_its_key():
    keys = [
        (0, Stream.ORDER, 0, 0),
        (1, Stream.ORDER, 0, 0),
        (0, Stream.VIEWS, 0, 0),
        (0, Stream.ORDER, 1, 0),
        (0, Stream.ORDER, 0, 1),
    ]
    drawn = [generator(*key).random(1000) for key in keys]
    for key, numbers in zip(keys, drawn, strict=True):
        assert np.array_equal(generator(*key).random(1000), numbers)
    correlation = np.corrcoef(drawn) - np.eye(len(keys))
    assert np.abs(correlation).max() < 0.15


def test_generators_do_not_overlap():
    """However many numbers one draws, it does not come to those of the next."""
    first = generator(0, Stream.ORDER, 0, 0).random(100_000)
    second = generator(0, Stream.ORDER, 0, 1).random(16)
    assert not np.isin(second, first).any()


def test_hashed_numbers_are_functions_of_all_their_keys():
    keys = np.arange(2000, dtype=np.int64)
    numbers = hashed(3, keys, keys % 7)
    assert numbers.shape == (3, 2000) and (numbers >= 0).all() and (numbers < 1).all()
    assert np.array_equal(hashed(3, keys[500:501], keys[500:501] % 7), numbers[:, 500:501])
    assert np.array_equal(hashed(2, keys, keys % 7), numbers[:2])  # more are added behind
    other = hashed(3, keys, keys % 7 + 1)
    assert np.abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.05
    assert np.abs(numbers.mean(axis=1) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef([*numbers, keys]) - np.eye(4)).max() < 0.1
