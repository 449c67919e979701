"""Bars of an imaginary run: how long they are."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report.bars import graded, grades, time
from edufast.experiments.report.style import LIGHT
from edufast.experiments.run_log import read_run


def test_bars_are_the_mean_accuracy_after_each_grade(finished: Path) -> None:
    (axis,) = grades(read_run(finished / "metrics.jsonl"), LIGHT).axes
    (bars,) = [c for c in axis.containers if c.get_label() == "education"]
    assert [bar.get_height() for bar in bars] == pytest.approx([0.89, 0.79, 0.94])
    assert [text.get_text() for text in axis.texts] == ["89.0", "79.0", "94.0"]


def test_a_method_in_one_grade_is_not_among_those_of_several(finished: Path) -> None:
    assert [method.name for method in graded(read_run(finished / "metrics.jsonl"))] == ["education"]


def test_phases_add_up_to_the_time_of_a_method(finished: Path) -> None:
    (axis,) = time(read_run(finished / "metrics.jsonl"), LIGHT).axes
    widths = {bars.get_label(): bars[0].get_width() for bars in axis.containers}
    assert widths == {"data": 10.0, "student": 120.0, "other <i>": 2.0}
    assert "2 min 12 s\ndata 7.6%" in [text.get_text() for text in axis.texts]
