"""Numbers and settings as a reader wants them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from edufast.experiments.events import Equal, Split

SPLITS: dict[Split, str] = {
    "holdout": "on a held-out part of the training split",
    "validation": "on the data set's validation split",
}
EQUAL: dict[Equal, str] = {
    "samples": "numbers of samples",
    "flops": "student FLOPs",
    "time": "training time",
}
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation, 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def spread(shares: Sequence[float]) -> str:
    """Shares of one as a percentage, mean ± standard deviation where there are several."""
    text = f"{100 * fmean(shares):.1f}"
    if len(shares) > 1:
        text += f" ± {100 * deviation(shares):.1f}"
    return f"{text} %"


def si(value: float, unit: str) -> str:
    """1.23e12 and "FLOP" as "1.23 TFLOP"."""
    step = 0
    while abs(value) >= 999.5 and step < len(_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {_PREFIXES[step]}{unit}".rstrip()


def seconds(value: float) -> str:
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
