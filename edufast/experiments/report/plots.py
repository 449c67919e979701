"""The plots of a report: each function draws one figure of a run, in one theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edufast.experiments.events import Event, Method, RunLog
from edufast.experiments.report.forgetting import accuracy_matrix, caption, forgetting
from edufast.experiments.report.format import deviation, mean, si
from edufast.experiments.report.format import seconds as duration
from edufast.experiments.report.style import (
    Theme,
    count_axis,
    figure,
    grid,
    label,
    legend,
    method_styles,
    percent_axis,
    readable,
    title,
)

PHASES = ("data", "teachers", "student", "optimizer", "validation", "growth", "export")
_NAMED = 0.025  # share of the axis that a grade must span for its number to fit


@dataclass(frozen=True)
class Plot:
    """One figure of the report.

    Attributes:
        name: file name without suffix.
        caption: what the reader looks at, plain text; also the picture's alternative text.
        draw: draws it in a theme.
    """

    name: str
    caption: str
    draw: Callable[[Theme], Figure]


def plots(log: RunLog) -> list[Plot]:
    """The plots that this run has data for."""
    methods = list(log.methods.values())
    epochs = [event for method in methods for event in _epochs(method)]
    graded = _graded(log)
    priced = [m for m in methods if any("student_flops" in r for r in m.results)]
    falls = (
        " It falls where a grade adds classes (dashed lines): the task became harder."
        if any(event["grade"] != epochs[0]["grade"] for event in epochs)
        else ""
    )
    band = " Bands: ± one standard deviation over seeds." if _several_seeds(methods) else ""

    def plot(name: str, wanted: object, draw: Callable[[Theme], Figure], text: str) -> list[Plot]:
        return [Plot(name, text, draw)] if wanted else []

    return [
        *plot(
            "accuracy",
            epochs,
            partial(accuracy, log),
            f"Validation accuracy on the classes taught so far.{falls}{band}",
        ),
        *plot(
            "grades",
            graded,
            partial(grades, log),
            "Accuracy at the end of each grade, on the classes taught until then.",
        ),
        *(
            Plot(
                f"forgetting-{_file_name(method.name)}",
                caption(method),
                partial(forgetting, method),
            )
            for method in graded
            if accuracy_matrix(method, "slice_accuracy") is not None
        ),
        *plot(
            "throughput",
            any("images_per_second" in event for event in epochs),
            partial(throughput, log),
            f"Training images a second, epoch by epoch.{band}",
        ),
        *plot(
            "time",
            any(method.phases for method in methods),
            partial(time, log),
            "Where the time of each method went, all seeds together; data: waiting for batches.",
        ),
        *plot(
            "flops",
            len(priced) > 1 and _flops_points(log),
            partial(flops, log),
            "Accuracy over all classes against the arithmetic spent on the student so far; epochs "
            f"that know fewer classes are left out.{band}",
        ),
        *plot(
            "cost",
            len(priced) > 1,
            partial(cost, log),
            "Final accuracy against the arithmetic spent on the student: up and to the left is "
            "better. Bars: ± one standard deviation over seeds.",
        ),
    ]


def accuracy(log: RunLog, theme: Theme) -> Figure:
    """Accuracy against samples seen, a line for each method, grade boundaries marked."""
    result, (axis,) = figure(theme, 4.4)
    _lines(axis, log, theme, "accuracy")
    title(result, "Accuracy against samples seen", theme)
    label(axis, theme, "training samples seen", "accuracy, classes taught so far")
    axis.set_ylim(min(0.8, 0.2 * (axis.dataLim.ymin // 0.2)), 1.01)
    percent_axis(axis)
    _boundaries(axis, log, theme)
    legend(result, theme)
    return result


def throughput(log: RunLog, theme: Theme) -> Figure:
    """Images a second against samples seen."""
    result, (axis,) = figure(theme, 3.6)
    _lines(axis, log, theme, "images_per_second")
    title(result, "Training throughput", theme)
    label(axis, theme, "training samples seen", "images / s")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    _boundaries(axis, log, theme)
    legend(result, theme)
    return result


def grades(log: RunLog, theme: Theme) -> Figure:
    """Bars: accuracy after each grade, grouped by method."""
    methods = _graded(log)
    numbers = sorted({e["grade"] for m in methods for t in m.trials.values() for e in t.grades})
    styles = method_styles([m.name for m in methods], theme)
    result, (axis,) = figure(theme, 3.8)
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        values = {n: [e["accuracy"] for e in _grade_events(method, n)] for n in numbers}
        taught = [n for n in numbers if values[n]]
        x = [numbers.index(n) + (i - (len(methods) - 1) / 2) * width for n in taught]
        heights = [mean(values[n]) for n in taught]
        errors = [deviation(values[n]) for n in taught]
        axis.bar(
            x,
            heights,
            0.9 * width,
            yerr=errors if any(errors) else None,
            error_kw={"ecolor": theme.faint, "capsize": 3},
            color=styles[method.name][0],
            label=method.name,
        )
        if len(numbers) * len(methods) <= 16:
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
    axis.set_xticks(range(len(numbers)), [f"grade {n}" for n in numbers])
    axis.tick_params(axis="x", labelcolor=theme.ink)
    axis.set_xlim(-0.5, max(len(numbers), 3) - 0.5)  # one grade is no wall of colour
    axis.set_ylim(0, 1.1)
    axis.set_yticks(np.linspace(0, 1, 6))
    percent_axis(axis)
    grid(axis, theme)
    legend(result, theme)
    return result


def time(log: RunLog, theme: Theme) -> Figure:
    """Stacked horizontal bars: seconds by phase, a bar for each method."""
    methods = [m for m in log.methods.values() if m.phases]
    seen = {phase for m in methods for phase, spent in m.phases.items() if spent}
    phases = [p for p in PHASES if p in seen] + sorted(seen - set(PHASES))
    totals = [sum(m.phases.values()) for m in methods]
    result, (axis,) = figure(theme, 1.1 + 0.6 * len(methods))
    left = np.zeros(len(methods))
    for i, phase in enumerate(phases):
        widths = np.array([m.phases.get(phase, 0.0) for m in methods])
        colour = theme.palette[i % len(theme.palette)]
        axis.barh(
            range(len(methods)),
            widths,
            0.62,
            left,
            color=colour,
            label=phase,
            edgecolor=theme.paper,
            linewidth=1,
        )
        for row, width in enumerate(widths):
            if width > 0.08 * max(totals):
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
    for row, (method, total) in enumerate(zip(methods, totals, strict=True)):
        waited = method.phases.get("data", 0.0) / total if total else 0.0
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
    axis.set_yticks(range(len(methods)), [m.name for m in methods])
    axis.tick_params(axis="y", labelcolor=theme.ink)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.16 * max(totals) or 1)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    legend(result, theme)
    return result


def flops(log: RunLog, theme: Theme) -> Figure:
    """Accuracy against student FLOPs spent, a line for each method, of epochs that know all."""
    result, (axis,) = figure(theme, 4.4)
    styles = method_styles(list(log.methods), theme)
    for name, x, y, spread in _flops_points(log):
        colour, marker = styles[name]
        axis.errorbar(
            x,
            y,
            spread if any(spread) else None,
            color=colour,
            marker=marker,
            markersize=5,
            capsize=3,
            linewidth=2,
            elinewidth=1,
            label=name,
        )
    title(result, "Accuracy against student FLOPs", theme)
    label(axis, theme, "student FLOPs spent", "accuracy over all classes")
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(lambda x, _: si(x, ""))
    percent_axis(axis)
    grid(axis, theme, "both")
    legend(result, theme)
    return result


def _flops_points(log: RunLog) -> list[tuple[str, list[float], list[float], list[float]]]:
    """Of each method: FLOPs, mean accuracy and its deviation over seeds, epoch by epoch."""
    lines = []
    for name, method in log.methods.items():
        points: dict[tuple[int, int], list[Event]] = {}
        for trial in method.trials.values():
            most = max((grade.get("classes", 0) for grade in trial.grades), default=0)
            complete = {grade["grade"] for grade in trial.grades if grade.get("classes") == most}
            for event in trial.epochs:
                if event["grade"] in complete and "student_flops" in event:
                    points.setdefault((event["grade"], event["epoch"]), []).append(event)
        groups = [points[at] for at in sorted(points)]
        if groups:
            x = [mean([event["student_flops"] for event in group]) for group in groups]
            accuracies = [[event["accuracy"] for event in group] for group in groups]
            y, spread = [mean(a) for a in accuracies], [deviation(a) for a in accuracies]
            lines.append((name, x, y, spread))
    return lines


def cost(log: RunLog, theme: Theme) -> Figure:
    """Scatter: final accuracy against student FLOPs, a point for each method."""
    result, (axis,) = figure(theme, 3.8)
    styles = method_styles(list(log.methods), theme)
    for method in log.methods.values():
        results = [r for r in method.results if "student_flops" in r]
        if not results:
            continue
        values = [r["accuracy"] for r in results]
        x, y = mean([r["student_flops"] for r in results]), mean(values)
        colour, marker = styles[method.name]
        axis.errorbar(
            x,
            y,
            deviation(values) or None,
            color=colour,
            marker=marker,
            markersize=9,
            capsize=4,
            linestyle="none",
            label=method.name,
        )
    title(result, "Accuracy against cost", theme)
    label(axis, theme, "student FLOPs", "final accuracy")
    axis.set_xlim(0, 1.18 * axis.get_xlim()[1])
    axis.xaxis.set_major_formatter(lambda x, _: si(x, ""))
    axis.margins(y=0.25)
    axis.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.4g}%")
    grid(axis, theme, "both")
    legend(result, theme)
    return result


def _lines(axis: Axes, log: RunLog, theme: Theme, key: str) -> None:
    """``key`` of the epoch events against samples: mean line, band over seeds."""
    styles = method_styles(list(log.methods), theme)
    for name, method in log.methods.items():
        points: dict[tuple[int, int], list[Event]] = {}
        for event in _epochs(method):
            if event.get(key) is not None:
                points.setdefault((event["grade"], event["epoch"]), []).append(event)
        if not points:
            continue
        groups = [points[at] for at in sorted(points)]
        x = [mean([e["samples"] for e in group]) for group in groups]
        y = np.array([mean([e[key] for e in group]) for group in groups])
        spread = np.array([deviation([e[key] for e in group]) for group in groups])
        colour, marker = styles[name]
        axis.plot(
            x,
            y,
            color=colour,
            marker=marker if len(x) <= 60 else None,
            markersize=5,
            linewidth=2,
            label=name,
        )
        if spread.any():
            axis.fill_between(x, y - spread, y + spread, color=colour, alpha=0.2, linewidth=0)
    grid(axis, theme)
    count_axis(axis)
    axis.set_xlim(left=0)


def _boundaries(axis: Axes, log: RunLog, theme: Theme) -> None:
    """Dashed lines between the grades of the first method with several, named where they fit."""
    for method in log.methods.values():
        ends: dict[int, float] = {}
        for event in _epochs(method):
            ends[event["grade"]] = max(ends.get(event["grade"], 0), event["samples"])
        if len(ends) < 2:
            continue
        numbers = sorted(ends)
        starts = [0.0, *(ends[number] for number in numbers[:-1])]
        shares = np.diff([*starts, ends[numbers[-1]]]) / axis.get_xlim()[1]
        for number, start, share in zip(numbers, starts, shares, strict=True):
            if start:
                axis.axvline(start, color=theme.faint, linestyle=(0, (4, 3)), linewidth=1)
            if share < _NAMED:
                continue
            axis.annotate(
                f"grade {number}" if min(shares) > 3 * _NAMED else f"{number}",
                (start, 1),
                (4, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=theme.faint,
                fontsize=9,
            )
        return


def _epochs(method: Method) -> list[Event]:
    return [event for trial in method.trials.values() for event in trial.epochs]


def _grade_events(method: Method, grade: int) -> list[Event]:
    return [e for t in method.trials.values() for e in t.grades if e["grade"] == grade]


def _graded(log: RunLog) -> list[Method]:
    """The methods taught in several grades; where there are none yet, all with a finished grade."""
    counts = {
        name: max((len(trial.grades) for trial in method.trials.values()), default=0)
        for name, method in log.methods.items()
    }
    least = 2 if max(counts.values(), default=0) > 1 else 1
    return [method for name, method in log.methods.items() if counts[name] >= least]


def _several_seeds(methods: list[Method]) -> bool:
    return any(len(method.trials) > 1 for method in methods)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
