"""Where a training stands, and what it has cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

_COUNTS = ("samples", "student_flops", "teacher_flops", "best_epoch")


@dataclass
class Progress:
    """Where a training stands and what it has cost so far; saved in every checkpoint."""

    grade: int = 0
    epoch: int = 0  # within the grade
    step: int = 0  # within the epoch
    loss_sum: float = 0.0  # over the steps of the epoch, where it was interrupted
    samples: int = 0
    student_flops: int = 0
    teacher_flops: int = 0
    accuracy: float = math.nan
    best_accuracy: float = math.nan  # of the epochs in which all classes are taught
    best_epoch: int = 0  # the first that had it, counted from 1 over all grades; 0: none yet
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def data_wait(self) -> float:
        """Share of the time outside validation that was spent waiting for batches."""
        spent = self.seconds - self.phases.get("validation", 0.0)
        return self.phases.get("data", 0.0) / spent if spent > 0 else 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the block to the phase ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.phases[name] = self.phases.get(name, 0.0) + spent

    def check(self, **limits: int) -> None:
        """Check the numbers, which may come from outside: counts and seconds, none negative.

        Args:
            limits: the largest possible values of some.

        Raises:
            ValueError: one cannot be; the message names it.
        """
        numbers = {**asdict(self), **self.phases}
        del numbers["phases"]
        for name, value in numbers.items():
            is_count = name in limits or name in _COUNTS
            if type(value) is not int and (is_count or not isinstance(value, float)):
                expected = "an integer" if is_count else "a number"
                raise ValueError(f"{name} is {value!r}; expected {expected}")
            if (value < 0 and name != "loss_sum") or value > limits.get(name, value):
                bound = f"0 to {limits[name]}" if name in limits else "at least 0"
                raise ValueError(f"{name} is {value!r}; expected {bound}")
