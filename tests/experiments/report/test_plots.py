"""Which plots a run gets."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report.plots import plots
from edufast.experiments.report.style import DARK, LIGHT
from edufast.experiments.run_log import read_run
from tests.experiments.logs import trial, write


def test_many_slices_and_methods(tmp_path: Path) -> None:
    """Enough of both that labels and colours run out."""
    events = [e for i in range(12) for e in trial(f"method {i}", 0, [[0.5]] * 30)]
    run = write(tmp_path / "run", events)
    for plot in plots(read_run(run / "metrics.jsonl"))[:4]:
        for theme in (LIGHT, DARK):
            plot.draw(theme).canvas.draw()
