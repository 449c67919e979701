"""Commands that two processes carry out together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edufast.cli import app
from tests.commands import events
from tests.pair import on_ranks
from tests.utils.test_ranks import forget_what_was_told


def typed(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one rank."""
    forget_what_was_told()
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def together(*arguments: object) -> list[tuple[int, str, str]]:
    return on_ranks(typed, [str(a) for a in arguments])


def refused(*arguments: object, code: int) -> str:
    """The only line of the two ranks that says why they end."""
    (first, _, told), (second, _, also_told) = together(*arguments)
    # Who did not find it out ends with 1.
    assert first == code and second in (code, 1), told + also_told
    (line,) = (x for x in (told + also_told).splitlines() if x.startswith("edufast: "))
    return line


@pytest.fixture(scope="module")
def shared(folder) -> tuple[Path, list[tuple[int, str, str]]]:
    """A run of two ranks, and what they printed."""
    out = folder / "shared"
    return out, together("train", folder / "recipe.yaml", "--out", out, "--json")


def test_only_the_first_rank_talks(shared):
    out, ((code, said, told), other) = shared
    assert (code, other) == (0, (0, "", "")), told
    assert set(json.loads(said)["accuracy"]) == {"education", "scratch"}
    assert told.count("education: grade 1/3, epoch 1/1") == 1
    assert f"report: {out / 'report.html'}" in told


def test_the_folder_holds_what_one_process_leaves(shared, run):
    out, _ = shared
    assert {p.relative_to(out) for p in out.rglob("*")} == {
        p.relative_to(run) for p in run.rglob("*")
    }
    kinds = [[event["event"] for event in events(of)] for of in (out, run)]
    assert set(kinds[0]) == set(kinds[1])
    # How often the best student so far is exported depends on the time that training takes.
    found, expected = ([kind for kind in of if kind != "export"] for of in kinds)
    assert found == expected
    for kind, keys in {
        "result": ("method", "seed", "samples", "student_flops", "teacher_flops"),
        "teacher": ("teacher", "samples", "flops"),
        "epoch": ("grade", "epoch", "samples", "student_flops", "teacher_flops"),
        "budget": ("method", "samples"),
    }.items():
        found, expected = (
            [[e[key] for key in keys] for e in events(of) if e["event"] == kind]
            for of in (out, run)
        )
        assert found == expected, kind


def test_a_finished_run_is_not_repeated(shared):
    out, _ = shared
    before = (out / "metrics.jsonl").read_text()
    (code, _, told), other = together("resume", out)
    assert (code, other) == (0, (0, "", "")), told
    added = (out / "metrics.jsonl").read_text()[len(before) :].splitlines()
    assert {json.loads(line)["event"] for line in added} <= {"export"}


def test_what_is_wrong_is_told_once(folder, tmp_path, run):
    recipe = folder / "recipe.yaml"
    line = refused("train", recipe, "--set", "training.lrr=1", code=2)
    assert "training.lrr" in line
    line = refused("train", recipe, "--out", run, "--set", "seed=1", code=2)
    assert "holds a run of another recipe" in line
    line = refused("train", recipe, "--out", tmp_path / "a", "--set", "training.lr=1e30", code=1)
    assert "the loss is" in line


def test_a_cache_that_processes_fill_together_is_all_that_they_ask_in_a_training(folder, tmp_path):
    teachers, out = tmp_path / "teachers", tmp_path / "a"
    changes = "teachers.0.shard=true", "teacher_epochs=1", "curriculum.epochs=3", "baselines=[]"
    recipe = folder / "recipe.yaml", *(word for change in changes for word in ("--set", change))
    (code, _, told), other = together("teach", *recipe, "--cache", "--out", teachers)
    assert (code, other) == (0, (0, "", "")), told
    assert "logits of 3,888 views stored" in told
    asked = "--teachers", teachers, "--cache", teachers / "cache"
    (code, _, told), other = together("train", *recipe, *asked, "--out", out)
    assert (code, other) == (0, (0, "", "")), told
    (result,) = (e for e in events(out) if e["event"] == "result")
    assert result["teacher_flops"] == 0


def test_commands_of_one_process_are_refused(tmp_path):
    out = tmp_path / "a"
    line = refused("sweep", "quickstart", "--out", out, code=2)
    assert "WORLD_SIZE is '2'; expected 1: this command runs in one process" in line
    assert not out.exists()
