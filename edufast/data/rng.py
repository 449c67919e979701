"""Random numbers as functions of where they are used, so that resuming needs no state."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Stream(IntEnum):
    """Purpose of the numbers; streams with the same seed are independent."""

    ORDER = 1
    VIEWS = 2
    SPLIT = 3
    HOLDOUT = 4
    MIX = 5
    ERASE = 6
    POLICY = 7


def generator(seed: int, stream: Stream, major: int, minor: int = 0) -> np.random.Generator:
    """A generator keyed by (seed, stream, major, minor), each in [0, 2**64).

    Philox is counter-based: the low half of its counter counts the numbers drawn, the high half is
    (major, minor), so generators never overlap.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, minor, major]))


def hashed(count: int, *keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """(count, N) uniform numbers in [0, 1), a function of N tuples of integers; faster than a
    generator for each.

    Each key goes through a round of SplitMix64 (Steele, Lea and Flood 2014).
    """
    state = np.zeros(len(keys[0]), dtype=np.uint64)
    for key in keys:
        state = _mixed(state + key.astype(np.uint64))
    steps = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    return (_mixed(state + steps * _GOLDEN) >> np.uint64(11)) * 2.0**-53


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
