"""The confidence at which images leave a program with early exits, chosen on validation images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edufast.utils.errors import UserError

_CANDIDATES = 1000  # quantiles of the confidences


@dataclass(frozen=True)
class Target:
    """What early exits should save, or may lose.

    Attributes:
        limit: the largest number of points of accuracy that may be lost against the whole student,
            or the largest mean cost, as a share of the whole student's FLOPs.
        of_cost: which of them.
    """

    limit: float
    of_cost: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """``"0.5"``: points of accuracy; ``"60%"``: of the whole student's cost.

        Raises:
            UserError: it is neither.
        """
        of_cost = text.endswith("%")
        try:
            limit = float(text.removesuffix("%"))
        except ValueError:
            limit = math.nan
        if not 0 <= limit <= 100:  # nan, too
            raise UserError(
                f"--early-exit is {text!r}; expected points of accuracy that may be lost, such as "
                "0.5, or the mean cost in percent of the whole student's, such as 60%"
            )
        return cls(limit / 100 if of_cost else limit, of_cost)

    def __str__(self) -> str:
        if self.of_cost:
            return f"at most {self.limit:.3g} of the whole student's cost"
        return f"at most {self.limit:g} points of accuracy lost"


@dataclass(frozen=True, eq=False)
class Exits:
    """What the exits of a student answer, one by one.

    Attributes:
        confidence: (exits, N) float32, the probability of the most probable class.
        right: (exits, N) bool, whether that is the image's class.
        cost: (exits,) of an image that leaves there, as a share of the whole student's FLOPs.
        right_whole: (N,) bool, of the whole student.
    """

    confidence: NDArray[np.float32]
    right: NDArray[np.bool_]
    cost: NDArray[np.float64]
    right_whole: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        logits: NDArray[np.float32],
        labels: NDArray[np.integer],
        cost: NDArray[np.float64],
        right_whole: NDArray[np.bool_],
    ) -> Exits:
        """Of logits (exits, N, classes) for images of the classes ``labels`` (N,)."""
        exponentials = np.exp(logits - logits.max(2, keepdims=True))
        confidence = exponentials.max(2) / exponentials.sum(2)
        return cls(confidence, logits.argmax(2) == labels, cost, right_whole)

    def part(self, images: slice) -> Exits:
        """Of some of the images."""
        confidence, right = self.confidence[:, images], self.right[:, images]
        return Exits(confidence, right, self.cost, self.right_whole[images])

    def left_at(self, threshold: float) -> NDArray[np.intp]:
        """(N,) position of the exit at which each image leaves: the first that is so sure, or the
        last."""
        sure = self.confidence >= threshold
        sure[-1] = True
        return sure.argmax(0)

    def measure(self, threshold: float) -> tuple[float, float]:
        """Accuracy and mean cost."""
        left = self.left_at(threshold)
        right = self.right[left, np.arange(len(left))]
        return float(right.mean()), float(self.cost[left].mean())


def choose(exits: Exits, target: Target) -> float | None:
    """The threshold that costs least with the accuracy that ``target`` asks for, or is the most
    accurate at its cost; None: there is none."""
    quantiles = np.quantile(exits.confidence[:-1], np.linspace(0, 1, _CANDIDATES + 1))
    best: tuple[float, float] | None = None
    chosen = None
    # Accuracies are quotients, so that a drop of exactly the limit may be some bits above it.
    least = float(exits.right_whole.mean()) - target.limit / 100 - 1e-9
    # In float32, as the program compares them.
    for threshold in np.unique(np.array([0.0, *quantiles, 1.0], np.float32)).tolist():
        accuracy, cost = exits.measure(threshold)
        fits = cost <= target.limit if target.of_cost else accuracy >= least
        worth = (accuracy, -cost) if target.of_cost else (-cost, accuracy)
        if fits and (best is None or worth > best):
            best, chosen = worth, threshold
    return chosen


def accuracy_on_others(exits: Exits, target: Target) -> float:
    """Accuracy on images that the threshold was not chosen on: on each half of the images with the
    threshold of the other half (1, where that has none).

    That of :func:`choose` is flattered a little, because it was chosen where it is measured.
    """
    halves = [exits.part(slice(start, None, 2)) for start in (0, 1)]
    right = 0.0
    for half, other in (halves, halves[::-1]):
        threshold = choose(other, target)
        right += half.measure(1.0 if threshold is None else threshold)[0] * half.right.shape[1]
    return right / exits.right.shape[1]
