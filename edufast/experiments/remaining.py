"""How long the rest of a run takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edufast.experiments.events import RemainingEvent
from edufast.training.school import School
from edufast.utils.event_log import EventLog

_SEEN = 0.05  # share of a run after which its own pace counts, not the planned one


@dataclass(frozen=True)
class Part:
    """A training of a run.

    Attributes:
        name: of its School's options, like ``seed``.
        flops: of training, as its School counts them.
        seconds: planned.
    """

    name: str
    seed: int
    flops: int
    seconds: float


class Remaining:
    """Seconds until a run ends: what is planned for the rest, at the pace of what was seen so far.

    Args:
        parts: the trainings of the run that are not finished.
        event_log: is told after every epoch.
        clock: in seconds.
    """

    def __init__(
        self,
        parts: list[Part],
        event_log: EventLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = {(part.name, part.seed): part for part in parts}
        self._done = dict.fromkeys(self._parts, 0.0)  # seconds, as planned
        self._log, self._clock = event_log, clock
        self._first: tuple[float, float] | None = None  # when, and what was done by then

    def after_epoch(self, school: School) -> str:
        """Log how much is done and how long the rest takes; returns that in words, and nothing for
        a training that is not among the parts."""
        name, seed = school.options.name, school.options.seed
        part = self._parts.get((name, seed))
        if part is None:
            return ""
        share = min(1.0, school.progress.student_flops / part.flops)
        self._done[name, seed] = share * part.seconds
        total, done = sum(p.seconds for p in self._parts.values()), sum(self._done.values())
        now = self._clock()
        self._first = self._first or (now, done)
        elapsed, since = now - self._first[0], done - self._first[1]
        pace = elapsed / since if since > _SEEN * total else 1.0
        left = pace * (total - done)
        self._log.write(
            RemainingEvent(method=name, seed=seed, done=done / total, seconds_left=left)
        )
        return f"{in_words(left)} left"


def in_words(seconds: float) -> str:
    """As rough as an estimate is."""
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
