"""The numbers of an imaginary sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from edufast.experiments.report.summary import (
    SweepSummary,
    VariantSummary,
    merged_events,
    summarise,
)
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.run_log import RunLog
from tests.experiments.logs import write
from tests.experiments.report.sweeps import CONFIG, write_runs


@pytest.fixture
def merged(tmp_path: Path) -> RunLog:
    """The event logs of all runs as one."""
    events = merged_events(CONFIG, *write_runs(tmp_path / "runs"))
    return RunFolder(write(tmp_path / "merged", [event.to_dict() for event in events])).log()


@pytest.fixture
def summary(tmp_path: Path, merged: RunLog) -> SweepSummary:
    return summarise(CONFIG, write_runs(tmp_path / "runs")[0], merged)


def by_name(summary: SweepSummary) -> dict[str, VariantSummary]:
    return {variant.name: variant for variant in summary.variants}


def test_variants_are_the_methods_of_one_run(merged: RunLog) -> None:
    assert list(merged.methods) == ["graded", "plain", "wild"]
    assert list(merged.results) == [(name, s) for name in ("graded", "plain") for s in (0, 1)]
    assert [teacher.teacher for teacher in merged.teachers] == [0, 1]
    assert merged.run is not None and (merged.run.name, merged.run.equal) == (
        "tiny: sweep",
        "flops",
    )
    assert merged.run.slices == [[0, 1], [2, 3], [4, 5]]
    assert merged.run.grades is None, "variants have their own"


def test_everything_but_steps_is_kept(tmp_path: Path) -> None:
    kinds = {event.kind for event in merged_events(CONFIG, *write_runs(tmp_path))}
    assert kinds == {"run", "teacher", "compile", "epoch", "grade", "result"}


def test_nothing_began(tmp_path: Path) -> None:
    runs = {name: {0: tmp_path / name} for name in CONFIG.recipe.variants}
    assert merged_events(CONFIG, runs, []) == []
    summary = summarise(CONFIG, runs, RunLog())
    assert summary.finished == [] and summary.split == "validation"
    assert all(variant.unfinished == [0] for variant in summary.variants)


def test_seeds_are_finished_diverged_or_unfinished(summary: SweepSummary) -> None:
    found = {v.name: (v.seeds, v.diverged, v.unfinished) for v in summary.variants}
    assert found == {
        "graded": ([0, 1], [], []), "plain": ([0, 1], [], []), "wild": ([], [0], [1])
    }  # fmt: skip


def test_means_are_over_seeds_and_relative_to_a_single_grade(summary: SweepSummary) -> None:
    assert [variant.name for variant, _ in summary.finished] == ["graded", "plain"]
    means = by_name(summary)["graded"].means
    assert means is not None
    assert means.accuracy.values == pytest.approx([0.95, 0.93])
    assert means.accuracy.mean == pytest.approx(0.94)
    assert means.accuracy.deviation == pytest.approx(0.02 / 2**0.5)
    assert means.slice_accuracy == pytest.approx([0.84, 0.94, 0.95])
    assert means.slice_accuracy_masked == pytest.approx([0.94, 0.94, 0.96])
    assert (means.student_flops, means.relative_student_flops) == (6e12, 0.5)


def test_the_json_has_the_means_among_what_else_is_known(summary: SweepSummary) -> None:
    content = summary.to_dict()
    assert (content["split"], content["equal"], content["teacher_seeds"]) == ("holdout", "flops", 2)
    graded, plain, wild = content["variants"]
    assert (graded["method"], graded["changes"]) == ("education", {"curriculum.exit_weight": 0.3})
    assert (plain["method"], plain["changes"]) == ("scratch", {"training.lr": 0.2})
    assert set(graded["accuracy"]) == {"mean", "deviation", "values"}
    assert graded["samples"] == 12000 and "means" not in graded
    assert set(graded) - set(wild) == {
        "accuracy", "best_accuracy", "slice_accuracy", "slice_accuracy_masked", "samples",
        "student_flops", "teacher_flops", "teacher_training_flops", "teacher_training_seconds",
        "training_seconds", "relative_student_flops",
    }  # fmt: skip
