"""What a run does after every epoch: report the time left, and keep the best model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edufast.experiments.best_so_far import BestSoFar
from edufast.experiments.remaining import Remaining
from edufast.training.school import School


@dataclass(frozen=True)
class AfterEpoch:
    """Says how long the rest of the run takes, and keeps the best model so far.

    Attributes:
        best: None: nothing is kept.
        remaining: None: nothing is said.
    """

    best: BestSoFar | None = None
    remaining: Remaining | None = None

    def hook(self, model: str | None) -> Callable[[School], str]:
        """What is called after every epoch of a training, and returns a note about it.

        Args:
            model: name of the network that is trained; None: it is not to be kept.
        """

        def hook(school: School) -> str:
            left = "" if self.remaining is None else self.remaining.after_epoch(school)
            usable = "" if self.best is None or model is None else self.best.offer(school, model)
            return ", ".join(note for note in (left, usable) if note)

        return hook
