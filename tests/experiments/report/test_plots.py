"""Which plots a run gets."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report.plots import plots
from edufast.experiments.report.style import DARK, LIGHT, png
from edufast.experiments.run_log import read_run
from tests.experiments.logs import trial, write


def test_without_slices_nothing_is_said_of_forgetting(tmp_path: Path) -> None:
    sliced = trial("education", 0, [[0.3], [0.4], [0.5]])
    whole = [
        event | {key: [0.5] for key in ("slice_accuracy", "slice_accuracy_masked") if key in event}
        for event in sliced
    ]
    found, others = (
        {plot.name: plot.caption for plot in plots(read_run(run / "metrics.jsonl"))}
        for run in (write(tmp_path / "whole", whole), write(tmp_path / "sliced", sliced))
    )
    assert set(others) - set(found) == {"forgetting-education"}
    assert "adds classes" in others["accuracy"] and "adds classes" not in found["accuracy"]
    assert "a new grade" in found["accuracy"]


def test_many_slices_and_methods(tmp_path: Path) -> None:
    """Enough of both that labels and colours run out."""
    events = [e for i in range(12) for e in trial(f"method {i}", 0, [[0.5]] * 30)]
    run = write(tmp_path / "run", events)
    for plot in plots(read_run(run / "metrics.jsonl"))[:4]:
        for theme in (LIGHT, DARK):
            plot.draw(theme).canvas.draw()


def test_variants_may_have_any_names(tmp_path: Path) -> None:
    names = ["kd+", "kd-", "v" * 300, r"$\frac$"]
    events = [event for name in names for event in trial(name, 0, [[0.3], [0.4], [0.5]])]
    found = plots(read_run(write(tmp_path / "run", events) / "metrics.jsonl"))
    matrices = {plot.name for plot in found if plot.name.startswith("forgetting")}
    assert len(matrices) == len(names) and max(map(len, matrices)) < 100
    assert png(next(plot for plot in found if plot.name == "accuracy").draw(LIGHT))
