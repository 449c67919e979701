"""The forgetting matrix: what later grades do to the classes that earlier grades taught."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edufast.experiments.report.style import Theme, figure, label, readable, title
from edufast.experiments.run_log import MethodLog

_ANNOTATED_SLICES = 12  # more columns leave no room for a number in each cell


def accuracy_matrix(method: MethodLog, *, masked: bool = False) -> np.ndarray | None:
    """(grades, slices): mean over seeds, NaN where not yet taught; None before the first grade.

    Args:
        masked: with the answer restricted to the sample's own slice.
    """
    events = [event for trial in method.trials.values() for event in trial.grades]
    if not events:
        return None
    by_slice = [e.slice_accuracy_masked if masked else e.slice_accuracy for e in events]
    shape = (max(event.grade for event in events), max(map(len, by_slice)))
    total, count = np.zeros(shape), np.zeros(shape)
    for event, accuracies in zip(events, by_slice, strict=True):
        for column, accuracy in enumerate(accuracies):
            if accuracy is not None:
                total[event.grade - 1, column] += accuracy
                count[event.grade - 1, column] += 1
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def has_slices(method: MethodLog) -> bool:
    """Whether the classes came in several slices; else there is nothing to forget."""
    matrix = accuracy_matrix(method)
    return matrix is not None and matrix.shape[1] > 1


def caption(method: MethodLog) -> str:
    """Says what the matrix shows, with the forgetting of Chaudhry et al. (2018) as a number."""
    text = (
        f"Columns are the class slices of {method.name}. Reading down a column shows how accuracy "
        "on a slice changes in later grades; blank: not yet taught."
    )
    matrix = accuracy_matrix(method)
    if matrix is None or len(matrix) < 2:
        return text
    earlier = np.isfinite(matrix[:-1]).any(axis=0) & np.isfinite(matrix[-1])
    if not earlier.any():
        return text
    drop = float((np.nanmax(matrix[:-1, earlier], axis=0) - matrix[-1, earlier]).mean())
    return f"{text} Forgetting, the mean drop from a slice's best: {100 * drop:.1f} points."


def forgetting(method: MethodLog, theme: Theme) -> Figure:
    """Two matrices, grades by slices: accuracy over all classes taught, and within the slice."""
    panels = [
        (name, matrix)
        for name, masked in (
            ("among all classes taught", False),
            ("among the slice's own classes", True),
        )
        if (matrix := accuracy_matrix(method, masked=masked)) is not None
    ]
    rows = panels[0][1].shape[0]
    # The colours span what occurs, at least 20 points; the numbers tell the absolute values.
    lowest = min(float(np.nanmin(matrix)) for _, matrix in panels)
    limits = min(0.8, np.floor(10 * lowest) / 10), 1.0
    result, axes = figure(theme, 1.7 + 0.5 * min(rows, 12), len(panels))
    for axis, (name, matrix) in zip(axes, panels, strict=True):
        _draw_matrix(axis, matrix, limits, theme)
        axis.set_title(name, loc="left", color=theme.faint, fontsize=10, pad=8)
        label(axis, theme, "class slice")
    title(result, f"Accuracy on each class slice after each grade: {method.name}", theme)
    return result


def _draw_matrix(axis: Axes, matrix: np.ndarray, limits: tuple[float, float], theme: Theme) -> None:
    """Cells of 0..1 with their percentage; cells of slices not yet taught stay blank."""
    rows, columns = matrix.shape
    colours = theme.sequential
    low, high = limits
    axis.imshow(np.ma.masked_invalid(matrix), cmap=colours, vmin=low, vmax=high, aspect="auto")
    if columns <= _ANNOTATED_SLICES:
        for row, column in np.argwhere(np.isfinite(matrix)):
            value = matrix[row, column]
            axis.text(
                column,
                row,
                f"{100 * value:.0f}" if columns > 6 else f"{100 * value:.1f}",
                ha="center",
                va="center",
                color=readable(colours((value - low) / (high - low))),
                fontsize=10,
            )
    step = max(1, columns // _ANNOTATED_SLICES)
    axis.set_xticks(range(0, columns, step), [str(i + 1) for i in range(0, columns, step)])
    axis.set_yticks(range(rows), [f"grade {i + 1}" for i in range(rows)])
    # Gaps between the cells.
    axis.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axis.grid(which="minor", color=theme.paper, linewidth=2)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
