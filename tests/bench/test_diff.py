"""Regressions and noise: what counts as a change between two folders of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edufast.bench import diff
from edufast.bench.results import write
from edufast.bench.timing import machine
from edufast.utils.errors import UserError

HERE = machine("cpu")


def times(median: float, spread: float = 0.02) -> dict[str, float]:
    return {"median": median, "low": median * (1 - spread), "high": median * (1 + spread)}


def measured(folder: Path, *contests: dict[str, Any], where: dict[str, Any] = HERE) -> Path:
    """A folder with contests of augment, whose rival is eager."""
    results = [
        {"size": size, "dtype": "fp32", "results": results} for size, results in enumerate(contests)
    ]
    write(folder / "augment.json", where, True, results)
    return folder


def counts(before: Path, after: Path) -> tuple[int, int]:
    changes = diff.compare(before, after)
    return sum(c.is_regression for c in changes), sum(c.is_improvement for c in changes)


def test_a_change_beyond_the_noise_counts_in_both_directions(tmp_path):
    before = measured(tmp_path / "a", {"eager": times(1.0), "cpp": times(0.1)})
    after = measured(tmp_path / "b", {"eager": times(1.01), "cpp": times(0.12)})
    assert counts(before, after) == (1, 0) and counts(after, before) == (0, 1)


@pytest.mark.parametrize("eager", [1.2, 1 / 1.2])
def test_what_rivals_did_too_is_noise_in_either_direction(eager, tmp_path):
    before = measured(tmp_path / "a", {"eager": times(1.0), "cpp": times(0.1)})
    after = measured(tmp_path / "b", {"eager": times(eager), "cpp": times(0.14)})
    assert counts(before, after) == (0, 0)
    assert "measure again" not in diff.lines(diff.compare(before, after))[0]


def test_a_rivals_change_in_one_contest_is_noise_in_all(tmp_path):
    same = {"eager": times(1.0), "cpp": times(0.1)}
    before = measured(tmp_path / "a", same, same)
    slower = {"eager": times(1.0), "cpp": times(0.15)}
    after = measured(tmp_path / "b", slower, {"eager": times(1.4), "cpp": times(0.1)})
    assert counts(before, after) == (0, 0)
    assert "1.40 times; measure again" in diff.lines(diff.compare(before, after))[0]
    assert counts(before, measured(tmp_path / "c", slower, same)) == (1, 0)


def test_ranges_that_overlap_are_noise(tmp_path):
    before = measured(tmp_path / "a", {"eager": times(1.0), "cpp": times(0.1, spread=0.2)})
    after = measured(tmp_path / "b", {"eager": times(1.0), "cpp": times(0.12, spread=0.2)})
    assert counts(before, after) == (0, 0) and counts(after, before) == (0, 0)


def test_a_small_change_is_not_told(tmp_path):
    before = measured(tmp_path / "a", {"eager": times(1.0), "cpp": times(0.1, 0.001)})
    after = measured(tmp_path / "b", {"eager": times(1.0), "cpp": times(0.104, 0.001)})
    assert counts(before, after) == (0, 0)


def test_only_what_both_have_is_compared(tmp_path):
    before = measured(tmp_path / "a", {"eager": times(1.0), "cpp": times(0.1), "old": times(1)})
    after = measured(tmp_path / "b", {"eager": times(1.0), "cpp": times(0.1), "new": times(9)})
    changes = diff.compare(before, after)
    assert [c.before.name for c in changes] == ["cpp"]
    assert diff.lines(changes)[-1].startswith("1 compared: 0 slower, 0 faster, 1 within")


def test_lines_tell_the_largest_change_first(tmp_path):
    before = measured(tmp_path / "a", *[{"eager": times(1.0), "cpp": times(0.1)}] * 3)
    after = measured(
        tmp_path / "b", *[{"eager": times(1.0), "cpp": times(t)} for t in (0.2, 0.05, 0.3)]
    )
    told = diff.lines(diff.compare(before, after))
    assert [line.split(",")[0] for line in told[:3]] == ["slower: augment"] * 2 + [
        "faster: augment"
    ]
    assert told[0].endswith("cpp: 100 ms -> 300 ms, 3.00 times as long")


def test_another_version_of_edufast_is_what_is_compared_but_another_machine_is_refused(tmp_path):
    contest = {"eager": times(1.0), "cpp": times(0.1)}
    before = measured(tmp_path / "a", contest)
    newer = {**HERE, "edufast": "9.0", "commit": "x", "load": 99.0}
    assert counts(before, measured(tmp_path / "b", contest, where=newer)) == (0, 0)
    other = measured(tmp_path / "c", contest, where={**HERE, "torch": "0.0"})
    with pytest.raises(UserError, match=r"are not comparable: torch .* and '0.0'$"):
        diff.compare(before, other)


def test_folders_without_a_common_measurement_are_refused(tmp_path):
    before = measured(tmp_path / "a", {"eager": times(1.0), "cpp": times(0.1)})
    with pytest.raises(UserError, match="no measurement in common; expected one of kd_loss"):
        diff.compare(before, tmp_path)
