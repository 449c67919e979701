"""Which exported file to ship, and what would make the model better."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edufast.edge.intervals import proportion
from edufast.edge.registry import FORMATS
from edufast.experiments.answers import Answers
from edufast.experiments.events import ExportEvent, FileKey
from edufast.experiments.report.format import percent, si

# A smaller file is preferred if it is less accurate by no more than this.
NEARLY = 0.01
_CERTAIN = 0.9  # a wrong answer as confident as this may be a wrong label
_WEAK = 0.1  # a class this much below the overall accuracy needs more pictures
_NAMED = 3  # classes in a piece of advice
_WIDE = 0.05  # half-width of an interval above which the accuracy is imprecise
_FEW = 200  # pictures of a class, up to which more help most


class Choice(NamedTuple):
    """The file to ship, and the reason in words."""

    file: ExportEvent
    reason: str


def choose(
    exports: Sequence[ExportEvent], fitting: Collection[FileKey] | None = None
) -> Choice | None:
    """The smallest of the files that are at most `NEARLY` less accurate than the best one.

    None: nothing was exported and measured.

    Args:
        fitting: those that fit the device; None: all. If none of the exported files fits, the
            smallest is chosen, and the reason says so.
    """
    measured = [export for export in exports if not export.noise]
    if not measured:
        return None
    if fitting is not None:
        fit = [export for export in measured if _key(export) in fitting]
        if not fit:
            return _unfit(measured, fitting)
        measured = fit
    best = max(measured, key=lambda export: (export.accuracy, -export.bytes))
    near = [export for export in measured if export.accuracy >= best.accuracy - NEARLY]
    chosen = min(near, key=lambda export: (export.bytes, -export.accuracy))
    within = "" if fitting is None else " within its budget"
    if len(measured) == 1:
        return Choice(chosen, f"It is the only file of this run{within}.")
    if chosen is not best:
        points = f"{100 * (best.accuracy - chosen.accuracy):.1f} points"
        times = best.bytes / chosen.bytes
        return Choice(
            chosen,
            f"{best.path} is only {points} more accurate, but {times:.1f} times as large.",
        )
    others = ", ".join(
        f"{export.path}: {percent(export.accuracy)}, {si(export.bytes, 'B')}"
        for export in measured
        if export is not best
    )
    smallest = min(export.bytes for export in measured) == best.bytes
    also = ", and it is the smallest" if smallest else ""
    return Choice(
        chosen, f"It is the most accurate of {len(measured)} files{within}{also} ({others})."
    )


def _key(export: ExportEvent) -> FileKey | None:
    """A program with early exits has all heads, which a budget was not counted for."""
    if export.early is not None:
        return None
    integers = FORMATS[export.format or "onnx"].INTEGERS
    return ("onnx-int8" if integers else "onnx", export.exit)


def _unfit(measured: Sequence[ExportEvent], fitting: Collection[FileKey]) -> Choice:
    smallest = min(measured, key=lambda export: export.bytes)
    formats = ",".join(dict.fromkeys(form for form, _ in fitting))
    return Choice(
        smallest,
        "It is the smallest, but none of the exported files fits the recipe's budget. To write "
        f"files that do: edufast export RUN --to {formats}",
    )


@dataclass(frozen=True)
class ClassSummary:
    """How a file does on the images of a class.

    Attributes:
        name: of the class.
        trained: its training images.
        count: its images that were set aside.
        right: how many of these were recognised.
        answered: images of any class that were taken for it.
        rival: name of the class that it is most often taken for, and how often; None: never.
    """

    name: str
    trained: int
    count: int
    right: int
    answered: int
    rival: tuple[str, int] | None

    @property
    def recall(self) -> float:
        """Share that was recognised."""
        return self.right / self.count if self.count else 0.0


def confusion(answers: Answers, file: str) -> NDArray[np.int64]:
    """(classes, classes): how often images of a row's class were taken for a column's."""
    count = len(answers.classes)
    pairs = answers.labels * count + answers.chosen[file]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def by_class(answers: Answers, file: str) -> list[ClassSummary]:
    """Every class, the least recognised first."""
    counts = confusion(answers, file)
    found = []
    for c, name in enumerate(answers.classes):
        wrong = counts[c].copy()
        wrong[c] = 0
        rival = int(wrong.argmax())
        found.append(
            ClassSummary(
                name,
                int(answers.trained[c]),
                int(counts[c].sum()),
                int(counts[c, c]),
                int(counts[:, c].sum()),
                (answers.classes[rival], int(wrong[rival])) if wrong[rival] else None,
            )
        )
    return sorted(found, key=lambda summary: summary.recall)


def confused(answers: Answers, file: str) -> list[tuple[str, str, int]]:
    """Pairs of classes and how many images of one were taken for the other, most first."""
    counts = confusion(answers, file)
    both = np.triu(counts + counts.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")
    pairs = (np.unravel_index(i, both.shape) for i in order[: np.count_nonzero(both)])
    return [(answers.classes[a], answers.classes[b], int(both[a, b])) for a, b in pairs]


def most_wrong(answers: Answers, file: str) -> NDArray[np.int64]:
    """Positions of the images that were taken for another class, the most confident first."""
    wrong = np.flatnonzero(answers.chosen[file] != answers.labels)
    return wrong[np.argsort(-answers.confidence[file][wrong], kind="stable")]


def least_certain(answers: Answers, file: str) -> NDArray[np.int64]:
    """Positions of all images, the least confident answer first."""
    return np.argsort(answers.confidence[file], kind="stable")


def next_steps(answers: Answers, file: str, minutes: float | None) -> list[str]:
    """What to do for a better model, in sentences.

    Args:
        answers: for the images set aside.
        file: the one to ship.
        minutes: that the run was given, or None.
    """
    count = len(answers.labels)
    right = int((answers.chosen[file] == answers.labels).sum())
    steps = []
    weak = [s for s in by_class(answers, file) if s.count and s.recall < right / count - _WEAK]
    if weak:
        named = "; ".join(
            f"{s.name} ({s.right} of {s.count} recognised, trained on {s.trained})"
            for s in weak[:_NAMED]
        )
        steps.append(f"Add pictures of the classes that are recognised worst: {named}.")
    elif right < count and answers.trained.min() < _FEW:
        steps.append(
            f"Add pictures of all classes: the rarest has {answers.trained.min()} for training; "
            f"{_FEW} is a good number."
        )
    pairs = [pair for pair in confused(answers, file) if pair[2] > 1]
    if pairs:
        first, second, times = pairs[0]
        steps.append(
            f"Mixed up most: {first} and {second}, {times} times. Add pictures that show what "
            "tells them apart, or merge the two classes if you need not tell them apart."
        )
    certain = int((answers.confidence[file][most_wrong(answers, file)] >= _CERTAIN).sum())
    if certain:
        steps.append(
            "Check the labels of pictures on which the model disagrees with high confidence, above "
            f"{_CERTAIN:.0%}: {certain} of the {count} pictures set aside."
        )
    low, high = proportion(right, count)
    if (high - low) / 2 > _WIDE:
        steps.append(
            f"With only {count} pictures set aside, the accuracy may be anywhere between "
            f"{percent(low)} and {percent(high)}. More pictures also make it more precise."
        )
    if minutes is not None:
        steps.append(f"Train longer: --minutes {6 * minutes:g} instead of {minutes:g}.")
    return steps
