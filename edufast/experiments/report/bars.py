"""Bars: the accuracy after each grade, and where the time of each method went."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from edufast.experiments.report.format import deviation
from edufast.experiments.report.format import seconds as duration
from edufast.experiments.report.style import (
    Theme,
    figure,
    grid,
    label,
    legend,
    method_styles,
    percent_axis,
    readable,
    title,
)
from edufast.experiments.run_log import MethodLog, RunLog

PHASES = ("data", "teachers", "compile", "student", "device", "validation", "growth")
_ANNOTATED_BARS = 16  # more leave no room for a number above each
_ANNOTATED_SHARE = 0.08  # of the longest bar: a phase this long has room for its duration


def grades(log: RunLog, theme: Theme) -> Figure:
    """Accuracy after each grade, grouped by method."""
    methods = graded(log)
    numbers = sorted(
        {e.grade for m in methods for trial in m.trials.values() for e in trial.grades}
    )
    styles = method_styles([m.name for m in methods], theme)
    result, (axis,) = figure(theme, 3.8)
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        values = {number: _accuracies(method, number) for number in numbers}
        taught = [number for number in numbers if values[number]]
        x = [numbers.index(number) + (i - (len(methods) - 1) / 2) * width for number in taught]
        heights = [fmean(values[number]) for number in taught]
        errors = [deviation(values[number]) for number in taught]
        axis.bar(
            x,
            heights,
            0.9 * width,
            yerr=errors if any(errors) else None,
            error_kw={"ecolor": theme.faint, "capsize": 3},
            color=styles[method.name][0],
            label=method.name,
        )
        if len(numbers) * len(methods) <= _ANNOTATED_BARS:
            for at, height, error in zip(x, heights, errors, strict=True):
                axis.annotate(
                    f"{100 * height:.1f}",
                    (at, height + error),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    color=theme.ink,
                    fontsize=10,
                )
    title(result, "Accuracy after each grade", theme)
    label(axis, theme, y="accuracy, classes taught so far")
    axis.set_xticks(range(len(numbers)), [f"grade {number}" for number in numbers])
    axis.tick_params(axis="x", labelcolor=theme.ink)
    axis.set_xlim(-0.5, max(len(numbers), 3) - 0.5)  # a single bar keeps its usual width
    axis.set_ylim(0, 1.1)
    axis.set_yticks(np.linspace(0, 1, 6))
    percent_axis(axis)
    grid(axis, theme)
    legend(result, theme)
    return result


def time(log: RunLog, theme: Theme) -> Figure:
    """Stacked horizontal bars: seconds by phase, a bar for each method."""
    spent = {m.name: m.phases for m in log.methods.values() if m.phases}
    seen = {phase for phases in spent.values() for phase, seconds in phases.items() if seconds}
    order = [phase for phase in PHASES if phase in seen] + sorted(seen - set(PHASES))
    totals = [sum(phases.values()) for phases in spent.values()]
    result, (axis,) = figure(theme, 1.1 + 0.6 * len(spent))
    left = np.zeros(len(spent))
    for i, phase in enumerate(order):
        widths = np.array([phases.get(phase, 0.0) for phases in spent.values()])
        colour = theme.palette[i % len(theme.palette)]
        axis.barh(
            range(len(spent)),
            widths,
            0.62,
            left,
            color=colour,
            label=phase,
            edgecolor=theme.paper,
            linewidth=1,
        )
        for row, width in enumerate(widths):
            if width > _ANNOTATED_SHARE * max(totals):
                axis.text(
                    left[row] + width / 2,
                    row,
                    duration(width),
                    ha="center",
                    va="center",
                    color=readable(colour),
                    fontsize=9,
                )
        left += widths
    for row, (phases, total) in enumerate(zip(spent.values(), totals, strict=True)):
        waited = phases.get("data", 0.0) / total if total else 0.0
        axis.annotate(
            f"{duration(total)}\ndata {waited:.1%}",
            (total, row),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=theme.ink,
            fontsize=10,
        )
    title(result, "Where the time went", theme)
    axis.set_yticks(range(len(spent)), list(spent))
    axis.tick_params(axis="y", labelcolor=theme.ink)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.16 * max(totals) or 1)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    legend(result, theme)
    return result


def graded(log: RunLog) -> list[MethodLog]:
    """The methods taught in several grades; where there are none yet, all with a finished grade."""
    counts = {
        name: max((len(trial.grades) for trial in method.trials.values()), default=0)
        for name, method in log.methods.items()
    }
    least = 2 if max(counts.values(), default=0) > 1 else 1
    return [method for name, method in log.methods.items() if counts[name] >= least]


def _accuracies(method: MethodLog, grade: int) -> list[float]:
    """After ``grade``, of each trial that finished it."""
    events = [event for trial in method.trials.values() for event in trial.grades]
    return [event.accuracy for event in events if event.grade == grade]
