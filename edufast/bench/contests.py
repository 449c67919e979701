"""Contests shown: a table for a terminal, and a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from edufast.bench.tables import numbers_table
from edufast.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Said = Callable[[dict[str, Any]], str]


def contests_table(
    heading: str,
    first: str,
    results: Sequence[dict[str, Any]],
    title: Said,
    columns: Mapping[str, Said],
) -> Table:
    """A line for every contest, and below it one for every implementation.

    Args:
        heading: of the table.
        first: head of the column of names.
        results: of a benchmark, with times in seconds.
        title: names a contest.
        columns: beside median and quartiles: head, and what an implementation's numbers say there.
    """
    t = numbers_table(f"{heading} (median, quartiles)", first, "µs", "spread", *columns)
    for r in results:
        t.add_row(title(r))
        for name, x in r["results"].items():
            t.add_row(
                f"  {name}",
                f"{x['median'] * 1e6:.0f}",
                f"{x['low'] * 1e6:.0f}-{x['high'] * 1e6:.0f}",
                *(said(x) for said in columns.values()),
            )
        t.add_section()
    return t


def contests_plot(
    path: Path, results: Sequence[dict[str, Any]], title: Said, number: str, label: str
) -> None:
    """Write a PNG with a row for every contest and a marker for every implementation in it.

    Args:
        path: of the file.
        results: of a benchmark.
        title: names a contest.
        number: which of an implementation's numbers is shown; 1 is a line.
        label: of the axis.
    """
    figure = _figure(results, title, number, label)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _figure(results: Sequence[dict[str, Any]], title: Said, number: str, label: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.5 + 0.25 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(name for r in results for name in r["results"]):
        points = [
            (r["results"][name][number], row)
            for row, r in enumerate(results)
            if name in r["results"]
        ]
        axes.plot(*zip(*points, strict=True), "o", label=name)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel=label)
    axes.set(yticks=range(len(results)), yticklabels=[title(r) for r in results])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure
