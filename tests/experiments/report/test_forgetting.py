"""The forgetting matrix."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report.forgetting import accuracy_matrix, caption
from edufast.experiments.run_log import read_run


def test_forgetting_matrix(finished: Path) -> None:
    education = read_run(finished / "metrics.jsonl").methods["education"]
    matrix = accuracy_matrix(education)
    assert matrix is not None and matrix.shape == (3, 3)
    assert matrix[2].tolist() == pytest.approx([0.74, 0.84, 0.94])
    assert [[bool(v == v) for v in row] for row in matrix] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    masked = accuracy_matrix(education, masked=True)
    assert masked is not None and masked[2].tolist() == pytest.approx([0.79, 0.89, 0.99])
    # Slice 1: 0.89 to 0.74; slice 2: 0.79 to 0.84, which is no fall but a gain.
    assert "best: 5.0 points" in caption(education)
