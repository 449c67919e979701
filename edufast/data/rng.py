"""Random numbers that are a function of where they are used, so that resuming needs no state."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for: streams of the same seed are independent of each other."""

    ORDER = 1
    VIEWS = 2
    SPLIT = 3
    HOLDOUT = 4


def generator(seed: int, stream: Stream, major: int, minor: int = 0) -> np.random.Generator:
    """A generator keyed by (seed, stream, major, minor), each in [0, 2**64).

    Philox is counter-based: the low half of its counter is left to the numbers drawn, the high
    half holds (major, minor), so two generators never overlap.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, minor, major]))
