"""Accuracy and throughput against what a training has spent: samples seen, or FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edufast.experiments.report.format import deviation, si
from edufast.experiments.report.style import (
    Theme,
    count_axis,
    figure,
    grid,
    label,
    legend,
    method_styles,
    percent_axis,
    title,
)
from edufast.experiments.run_log import MethodLog, RunLog, Trial
from edufast.training.events import EpochEvent

_NAMED = 0.025  # share of the axis that a grade must span for its number to fit


def accuracy(log: RunLog, theme: Theme) -> Figure:
    """Accuracy against samples seen, a line for each method, grade boundaries marked."""
    result, (axis,) = figure(theme, 4.4)
    _lines(axis, log, theme, lambda epoch: epoch.accuracy)
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
    _lines(axis, log, theme, lambda epoch: epoch.images_per_second)
    title(result, "Training throughput", theme)
    label(axis, theme, "training samples seen", "images / s")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    _boundaries(axis, log, theme)
    legend(result, theme)
    return result


def flops(log: RunLog, theme: Theme) -> Figure:
    """Accuracy against student FLOPs spent, a line for each method, of epochs that know all."""
    result, (axis,) = figure(theme, 4.4)
    styles = method_styles(list(log.methods), theme)
    for name, method in log.methods.items():
        epochs = complete_epochs(method)
        if not epochs:
            continue
        curve = _curve(epochs, lambda epoch: epoch.student_flops, lambda epoch: epoch.accuracy)
        colour, marker = styles[name]
        axis.errorbar(
            curve.x,
            curve.y,
            curve.deviation if curve.deviation.any() else None,
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


def cost(log: RunLog, theme: Theme) -> Figure:
    """Final accuracy against student FLOPs, a point for each method."""
    result, (axis,) = figure(theme, 3.8)
    styles = method_styles(list(log.methods), theme)
    for method in log.methods.values():
        if not method.results:
            continue
        accuracies = [result.accuracy for result in method.results]
        colour, marker = styles[method.name]
        axis.errorbar(
            fmean([result.student_flops for result in method.results]),
            fmean(accuracies),
            deviation(accuracies) or None,
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


def all_epochs(method: MethodLog) -> list[EpochEvent]:
    """Of all trials, one after the other."""
    return [epoch for trial in method.trials.values() for epoch in trial.epochs]


def complete_epochs(method: MethodLog) -> list[EpochEvent]:
    """Of all trials, those of finished grades in which all classes are taught."""
    return [
        epoch
        for trial in method.trials.values()
        for epoch in trial.epochs
        if epoch.grade in _complete_grades(trial)
    ]


def _complete_grades(trial: Trial) -> set[int]:
    most = max((grade.classes for grade in trial.grades), default=0)
    return {grade.grade for grade in trial.grades if grade.classes == most}


@dataclass(frozen=True)
class _Curve:
    """Means over seeds, epoch by epoch, and the standard deviation of y."""

    x: np.ndarray
    y: np.ndarray
    deviation: np.ndarray


Quantity = Callable[[EpochEvent], float]


def _curve(epochs: Iterable[EpochEvent], x: Quantity, y: Quantity) -> _Curve:
    points: dict[tuple[int, int], list[EpochEvent]] = {}
    for epoch in epochs:
        points.setdefault((epoch.grade, epoch.epoch), []).append(epoch)
    groups = [points[at] for at in sorted(points)]
    return _Curve(
        np.array([fmean([x(epoch) for epoch in group]) for group in groups]),
        np.array([fmean([y(epoch) for epoch in group]) for group in groups]),
        np.array([deviation([y(epoch) for epoch in group]) for group in groups]),
    )


def _lines(axis: Axes, log: RunLog, theme: Theme, quantity: Quantity) -> None:
    """``quantity`` against samples seen: mean line, band over seeds."""
    styles = method_styles(list(log.methods), theme)
    for name, method in log.methods.items():
        epochs = all_epochs(method)
        if not epochs:
            continue
        curve = _curve(epochs, lambda epoch: epoch.samples, quantity)
        colour, marker = styles[name]
        axis.plot(
            curve.x,
            curve.y,
            color=colour,
            marker=marker if len(curve.x) <= 60 else None,
            markersize=5,
            linewidth=2,
            label=name,
        )
        if curve.deviation.any():
            low, high = curve.y - curve.deviation, curve.y + curve.deviation
            axis.fill_between(curve.x, low, high, color=colour, alpha=0.2, linewidth=0)
    grid(axis, theme)
    count_axis(axis)
    axis.set_xlim(left=0)


def _boundaries(axis: Axes, log: RunLog, theme: Theme) -> None:
    """Dashed lines between the grades of the first method with several, named where they fit."""
    for method in log.methods.values():
        ends: dict[int, float] = {}
        for epoch in all_epochs(method):
            ends[epoch.grade] = max(ends.get(epoch.grade, 0), epoch.samples)
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
