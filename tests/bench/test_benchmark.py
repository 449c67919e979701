"""Running a benchmark: it goes on where it was stopped, and says how far it is."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from edufast.bench import benchmark as module
from edufast.bench.benchmark import Benchmark, run
from edufast.utils.errors import UserError


class Measured:
    """A benchmark of the numbers 1 to 4, of which ``quick`` takes two, and what it measured."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.threads: set[int] = set()
        self.stop_at = 0
        self.benchmark = Benchmark(
            "numbers",
            "Numbers",
            "Of numbers.",
            rivals=("eager",),
            cases=lambda quick, device: [1, 2] if quick else [1, 2, 3, 4],
            known=lambda number: {"number": number},
            title=lambda result: f"[number] {result['number']}",
            measurer=self.measurer,
            shown=lambda results: [f"numbers {[r['number'] for r in results]}"],
            illustrate=lambda folder, machine, results: (folder / "numbers.png").write_text(
                f"{len(results)}"
            ),
        )

    def measurer(self, quick, device, report):
        def measure(number):
            report("first round")
            self.threads.add(torch.get_num_threads())
            if number == self.stop_at:
                raise KeyboardInterrupt
            self.calls.append((number, quick))
            return {"results": {"eager": {"median": 1.0, "low": 1.0, "high": 1.0}}}

        return measure


@pytest.fixture
def measured():
    return Measured()


def written(folder):
    return json.loads((folder / "numbers.json").read_text())


def test_it_goes_on_where_it_was_stopped(measured, tmp_path, capsys):
    measured.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(measured.benchmark, False, tmp_path, "cpu", None)
    assert [r["number"] for r in written(tmp_path)["results"]] == [1, 2]
    measured.stop_at = 0
    measured.calls.clear()
    run(measured.benchmark, False, tmp_path, "cpu", None)
    assert measured.calls == [(3, False), (4, False)]
    assert [r["number"] for r in written(tmp_path)["results"]] == [1, 2, 3, 4]
    assert (tmp_path / "numbers.png").read_text() == "4"
    told = capsys.readouterr()
    assert "numbers: 2 of 4 contests measured already" in told.out
    assert "numbers [1, 2, 3, 4]" in told.out


def test_quick_results_are_no_substitute_for_whole_ones(measured, tmp_path):
    run(measured.benchmark, True, tmp_path, "cpu", None)
    assert written(tmp_path)["quick"] is True
    run(measured.benchmark, False, tmp_path, "cpu", None, cases=[2, 3, 4])
    assert written(tmp_path)["quick"] is True  # the first still is
    run(measured.benchmark, False, tmp_path, "cpu", None)
    assert written(tmp_path)["quick"] is False
    run(measured.benchmark, True, tmp_path, "cpu", None)
    assert measured.calls == [(1, True), (2, True), *((n, False) for n in (2, 3, 4, 1))]


def test_results_of_another_machine_are_not_overwritten(measured, tmp_path):
    run(measured.benchmark, True, tmp_path, "cpu", None)
    path = tmp_path / "numbers.json"
    text = path.read_text().replace(torch.__version__, "0.0")
    path.write_text(text)
    measured.calls.clear()
    with pytest.raises(UserError, match=r"numbers.json: torch '0.0' and .*; choose another"):
        run(measured.benchmark, True, tmp_path, "cpu", None)
    assert measured.calls == [] and path.read_text() == text


def test_results_of_another_benchmark_are_refused_and_those_of_unknown_length_replaced(
    measured, tmp_path
):
    run(measured.benchmark, False, tmp_path, "cpu", None)
    path = tmp_path / "numbers.json"
    content = written(tmp_path)
    for result in content["results"]:
        del result["quick"]
    path.write_text(json.dumps(content))
    measured.calls.clear()
    run(measured.benchmark, False, tmp_path, "cpu", None)
    assert len(measured.calls) == 4 and written(tmp_path)["quick"] is False
    path.write_text(path.read_text().replace("number", "another"))
    with pytest.raises(UserError, match=r"numbers.json is not a result of edufast bench"):
        run(measured.benchmark, False, tmp_path, "cpu", None)


def test_threads_are_those_asked_for_and_afterwards_as_before(measured, tmp_path):
    before = torch.get_num_threads()
    run(measured.benchmark, True, tmp_path, "cpu", before + 1)
    assert measured.threads == {before + 1} and torch.get_num_threads() == before
    assert written(tmp_path)["machine"]["threads"] == before + 1
    measured.threads.clear()
    run(replace(measured.benchmark, one_thread=True), True, None, "cpu", before + 1)
    assert measured.threads == {1}


def test_without_a_terminal_every_contest_is_a_line(measured, capsys):
    run(measured.benchmark, False, None, "cpu", None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "numbers: [number] 1 (1 of 4)"
    assert re.fullmatch(r"numbers: \[number\] 4 \(4 of 4, about \S+ \w+ left\)", lines[3])
    assert len(lines) == 4


def test_on_a_terminal_they_take_turns_in_a_line(measured, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    run(measured.benchmark, False, None, "cpu", None)
    shown = screen.getvalue()
    assert re.search(r"numbers: \[number\] 4 \(4 of 4, about \S+ \w+ left\): first round", shown)
    assert "[number] 1 (1 of 4)\n" not in shown


def test_nothing_is_prepared_when_nothing_is_missing(measured, tmp_path):
    run(measured.benchmark, True, tmp_path, "cpu", None)

    def unavailable(*_: object) -> None:
        raise UserError("a package is missing")

    run(replace(measured.benchmark, measurer=unavailable), True, tmp_path, "cpu", None)
    with pytest.raises(UserError, match="a package is missing"):
        run(replace(measured.benchmark, measurer=unavailable), False, tmp_path, "cpu", None)


def test_missing_contests_are_told_by_title():
    results = {"a": {"quick": True}, "b": {"quick": False}}
    contests = {"a": 1, "b": 2, "c": 3}
    assert module.missing(contests, results, quick=True) == {"c": 3}
    assert module.missing(contests, results, quick=False) == {"a": 1, "c": 3}


def test_results_that_lack_what_the_table_shows_are_refused_before_anything_is_measured(
    measured, tmp_path
):
    def shown(results):
        return [f"{r['share']:.0%}" for r in results]

    run(measured.benchmark, True, tmp_path, "cpu", None)
    measured.calls.clear()
    with pytest.raises(UserError, match=r"numbers.json is not a result of edufast bench"):
        run(replace(measured.benchmark, shown=shown), False, tmp_path, "cpu", None)
    assert measured.calls == []
