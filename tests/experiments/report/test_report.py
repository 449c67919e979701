"""Reports as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report import write_report
from edufast.utils.errors import UserError
from tests.experiments.logs import RUN


def test_plots_lie_beside_the_page(finished: Path) -> None:
    pictures = {path.name: path.read_bytes() for path in (finished / "plots").iterdir()}
    # scratch has one grade: nothing can be forgotten, and no matrix is drawn.
    assert set(pictures) == {
        f"{name}.png"
        for name in (
            "accuracy", "grades", "forgetting-education", "throughput", "time", "flops", "cost"
        )
    }  # fmt: skip
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_writing_again_gives_the_same_page(finished: Path) -> None:
    before = (finished / "report.html").read_bytes()
    write_report(finished)
    assert (finished / "report.html").read_bytes() == before
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "plots", "report.html"}


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: it has no metrics\.jsonl"):
        write_report(tmp_path)


def test_a_damaged_log_leaves_no_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(RUN)}\n[1, 2]\n{json.dumps(RUN)}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: "):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
