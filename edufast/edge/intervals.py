"""Confidence intervals of measured accuracies."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.95


def proportion(right: int, samples: int) -> tuple[float, float]:
    """Interval at the level `LEVEL` of an accuracy: Wilson's score interval.

    Args:
        right: correct answers.
        samples: all, at least 1.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, weight = right / samples, z * z / samples
    centre = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)


def paired_difference(gained: int, lost: int, samples: int) -> tuple[float, float]:
    """Interval at the level `LEVEL` of the difference between two accuracies on the same samples.

    Wald's interval on the discordant pairs with half a pair added to each of the four cells, which
    holds its level also where few pairs or none are discordant (Agresti and Min 2005, "Simple
    improved confidence intervals for comparing matched proportions").

    Args:
        gained: samples that only the second classifier gets right.
        lost: samples that only the first one gets right.
        samples: all, at least 1.

    Returns:
        Lowest and highest difference, second minus first, within [-1, 1].
    """
    gain, loss, count = gained + 0.5, lost + 0.5, samples + 2
    difference = (gain - loss) / count
    deviation = math.sqrt(gain + loss - (gain - loss) ** 2 / count) / count
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * deviation
    return max(difference - reach, -1.0), min(difference + reach, 1.0)
