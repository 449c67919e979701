"""The command runs: a list, a comparison, and what it refuses."""

from __future__ import annotations

import json

from tests.commands import edufast, one_line, words
from tests.experiments import logs
from tests.experiments.test_runs import EDUCATED, a_run, result


def test_runs_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "runs" / "a", [logs.RUN, *EDUCATED, result(0.9)])
    a_run(tmp_path / "runs" / "b", [logs.RUN])
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "c" / "config.yaml").write_text("3")
    told = edufast("runs")
    rows = [line.split() for line in told.stdout.splitlines()]
    assert ["runs/a", "finished", "3/3", "90.0", "%", "1", "min", "15", "s"] in rows
    assert ["runs/b", "stopped"] in rows and ["runs/c", "damaged"] in rows
    assert "runs/c: runs/c/config.yaml: found int; expected keys and values" in one_line(told)
    listed = json.loads(edufast("runs", "runs/a", "--json").stdout)
    assert [(run["path"], run["state"], run["accuracy"]) for run in listed] == [
        ("runs/a", "finished", 0.9)
    ]


def test_two_runs_are_compared(tmp_path):
    one = a_run(tmp_path / "a", [logs.RUN, *EDUCATED, result(0.9)])
    other = a_run(tmp_path / "b", [logs.RUN, *EDUCATED, result(0.8)], recipe={"teacher_epochs": 2})
    told = words(edufast("runs", one, other, columns=300).stdout)
    assert {"teacher_epochs", "1", "2", "90.0", "80.0"} <= set(told)
    compared = json.loads(edufast("runs", one, other, "--json").stdout)
    assert ["teacher_epochs", 1, 2] in compared["keys"]
    assert ["education: accuracy", "90.0 %", "80.0 %"] in compared["results"]
    assert "the recipes are the same" in edufast("runs", one, one).stdout


def test_what_is_neither_a_folder_nor_two_runs_is_refused(tmp_path):
    one = a_run(tmp_path / "a", [logs.RUN])
    assert "holds no run: " in one_line(edufast("runs", one, tmp_path, code=2))
    refused = edufast("runs", one, one, one, code=2)
    assert "paths: 3 folders; expected one that holds runs, or two runs" in one_line(refused)
    assert "none is not a folder" in one_line(edufast("runs", tmp_path / "none", code=2))
    (tmp_path / "empty").mkdir()
    assert "empty holds no runs" in one_line(edufast("runs", tmp_path / "empty"))
