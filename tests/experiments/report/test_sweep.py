"""An imaginary sweep, as a table and as files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report import write_figures, write_summary
from edufast.experiments.report.style import LIGHT
from edufast.experiments.report.summary import SweepSummary
from edufast.experiments.report.sweep import HEADS, draw, markdown, note, rows, to_json
from tests.experiments.report.sweeps import CONFIG, write_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def summary(folder: Path) -> SweepSummary:
    summary = write_summary(folder, CONFIG, *write_runs(folder / "runs"))
    write_figures(folder, summary)
    return summary


def test_a_row_for_each_variant_with_a_result(summary: SweepSummary) -> None:
    graded, plain = rows(summary)
    assert graded == [
        "graded", "2", "94.0 ± 1.4 %", "95.0 ± 1.4 %", "6 T (0.50 ×)", "2 G + 3 T", "1 min 00 s"
    ]  # fmt: skip
    assert plain[4] == "12 T (1.00 ×)"
    lines = markdown(summary).splitlines()
    assert lines[0] == "# tiny: sweep" and f"| {' | '.join(HEADS)} |" in lines
    assert f"| {' | '.join(graded)} |" in lines
    named = replace(summary, variants=[replace(summary.variants[0], name="a|b")])
    assert r"| a\|b | 2 |" in markdown(named)


def test_the_note_tells_what_the_numbers_are_and_what_is_missing(summary: SweepSummary) -> None:
    text = note(summary)
    assert "2 student seeds, 2 sets of teachers, 1 draw of the data" in text
    assert "on a held-out part of the training split" in text and "equal student FLOPs" in text
    assert "the means leave them out): wild (1)." in text
    assert "number of missing seeds): wild (1)." in text


def test_points_are_the_means_of_last_and_best_epoch(summary: SweepSummary) -> None:
    (axis,) = draw(summary, LIGHT).axes
    points = {c.get_label(): c.lines[0].get_xdata() for c in axis.containers}
    assert list(points["last epoch"]) == pytest.approx([0.94, 0.94])
    assert list(points["best epoch"]) == pytest.approx([0.95, 0.95])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["graded", "plain"]


def test_all_of_it_is_written(folder: Path, summary: SweepSummary) -> None:
    assert (folder / "sweep.json").read_text() == to_json(summary)
    assert json.loads(to_json(summary)) == summary.to_dict()
    assert (folder / "sweep.md").read_text() == markdown(summary)
    for name in ("sweep.png", "sweep.svg", "sweep-flops.png", "sweep-flops.svg", "report.html"):
        assert (folder / name).stat().st_size > 1000
    assert "tiny: sweep" in (folder / "report.html").read_text()


def test_a_sweep_that_never_began_has_a_report_too(tmp_path: Path) -> None:
    runs = {name: {0: tmp_path / "runs" / name} for name in CONFIG.recipe.variants}
    summary = write_summary(tmp_path, CONFIG, runs, [])
    write_figures(tmp_path, summary)
    assert rows(summary) == [] and not (tmp_path / "sweep.png").exists()
    assert "no student was trained yet" in (tmp_path / "report.html").read_text()
