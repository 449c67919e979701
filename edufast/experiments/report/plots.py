"""The plots of a report: which ones a run has data for, and what each shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from edufast.experiments.content_names import text_hash
from edufast.experiments.report.bars import graded, grades, time
from edufast.experiments.report.curves import (
    accuracy,
    all_epochs,
    complete_epochs,
    cost,
    flops,
    throughput,
)
from edufast.experiments.report.forgetting import caption, forgetting, has_slices
from edufast.experiments.report.style import Theme
from edufast.experiments.run_log import RunLog

_LONGEST = 40  # letters of a method in a file's name


@dataclass(frozen=True)
class Plot:
    """One figure of the report.

    Attributes:
        name: file name without suffix.
        caption: what it shows, plain text; also the picture's alternative text.
        draw: draws it in a theme.
    """

    name: str
    caption: str
    draw: Callable[[Theme], Figure]


def plots(log: RunLog) -> list[Plot]:
    """The plots that this run has data for."""
    methods = list(log.methods.values())
    epochs = [epoch for method in methods for epoch in all_epochs(method)]
    finished = [method for method in methods if method.results]
    sliced = [method for method in graded(log) if has_slices(method)]
    falls = ""
    if len({epoch.grade for epoch in epochs}) > 1:
        falls = " Dashed lines: a new grade."
        if sliced:
            falls = " It falls where a grade adds classes (dashed lines): the task became harder."
    several = any(len(method.trials) > 1 for method in methods)
    band = " Bands: ± one standard deviation over seeds." if several else ""

    def plot(
        name: str, wanted: object, draw: Callable[[RunLog, Theme], Figure], text: str
    ) -> list[Plot]:
        return [Plot(name, text, partial(draw, log))] if wanted else []

    return [
        *plot(
            "accuracy",
            epochs,
            accuracy,
            f"Validation accuracy on the classes taught so far.{falls}{band}",
        ),
        *plot(
            "grades",
            graded(log),
            grades,
            "Accuracy at the end of each grade, on the classes taught until then.",
        ),
        *(
            Plot(
                f"forgetting-{_file_name(method.name)}",
                caption(method),
                partial(forgetting, method),
            )
            for method in sliced
        ),
        *plot(
            "throughput",
            epochs,
            throughput,
            f"Training images a second, epoch by epoch.{band}",
        ),
        *plot(
            "time",
            any(method.phases for method in methods),
            time,
            "Where the time of each method went, all seeds together; data: waiting for batches.",
        ),
        *plot(
            "flops",
            len(finished) > 1 and any(complete_epochs(method) for method in methods),
            flops,
            "Accuracy over all classes against the arithmetic spent on the student so far; epochs "
            f"that know fewer classes are left out.{band}",
        ),
        *plot(
            "cost",
            len(finished) > 1,
            cost,
            "Final accuracy against the arithmetic spent on the student: up and to the left is "
            "better. Bars: ± one standard deviation over seeds.",
        ),
    ]


def _file_name(name: str) -> str:
    """Variants may have names of any length and with any characters."""
    plain = "".join(c if c.isalnum() else "-" for c in name)[:_LONGEST]
    return plain if plain == name else f"{plain}-{text_hash(name)}"
