"""Figures of an imaginary run: what the lines show."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report.curves import accuracy, flops
from edufast.experiments.report.style import LIGHT
from edufast.experiments.run_log import read_run


def test_accuracy_plot(finished: Path) -> None:
    figure = accuracy(read_run(finished / "metrics.jsonl"), LIGHT)
    (axis,) = figure.axes
    lines = {line.get_label(): line for line in axis.lines}
    x, y = lines["education"].get_data()
    assert list(x) == [1000, 2000, 4000, 6000, 9000, 12000]
    assert list(y) == pytest.approx([0.49, 0.89, 0.69, 0.79, 0.74, 0.94])
    boundaries = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"]
    assert boundaries == [2000, 6000]
    assert len(axis.collections) == 2, "a band for each method"


def test_accuracy_against_flops_shows_epochs_that_know_all_classes(finished: Path) -> None:
    figure = flops(read_run(finished / "metrics.jsonl"), LIGHT)
    (axis,) = figure.axes
    lines = {container.get_label(): container.lines[0] for container in axis.containers}
    x, y = lines["education"].get_data()
    assert list(x) == [9e12, 12e12] and list(y) == pytest.approx([0.74, 0.94])
    assert len(lines["scratch"].get_xdata()) == 6
