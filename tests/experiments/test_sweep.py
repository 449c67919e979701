"""Sweeps as a user runs them, on a tiny folder of pictures: teachers, resumption, summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from edufast.experiments.sweep_config import SweepConfig
from edufast.experiments.sweep_tasks import plan_tasks
from edufast.experiments.workers import DONE_ELSEWHERE
from edufast.utils.progress import message_console
from tests.commands import edufast, events, one_line


@pytest.fixture(scope="module")
def swept(recipe):
    """Three variants, two seeds; student seed 1 on other data and another set of teachers."""
    out = recipe.parent / "swept"
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 2, "--teacher-seeds", 2, "--equal", "flops",
        "--set", "data.holdout=0.25", "--json",
    )  # fmt: skip
    return out, json.loads(result.stdout)


def entries(summary):
    return {entry["name"]: entry for entry in summary["variants"]}


def test_the_summary_has_last_and_best_epoch_and_what_it_cost(swept):
    out, summary = swept
    assert summary == json.loads((out / "sweep.json").read_text())
    assert (summary["split"], summary["equal"]) == ("holdout", "flops")
    by_name = entries(summary)
    assert list(by_name) == ["plain", "kd", "graded"]
    for entry in by_name.values():
        assert entry["seeds"] == [0, 1] and entry["unfinished"] == []
        assert entry["best_accuracy"]["mean"] >= entry["accuracy"]["mean"]
        first, second = entry["accuracy"]["values"]
        assert entry["accuracy"]["deviation"] == pytest.approx(abs(first - second) / 2**0.5)
    assert by_name["plain"]["teacher_training_flops"] == 0 == by_name["plain"]["teacher_flops"]
    assert by_name["kd"]["teacher_training_flops"] < by_name["graded"]["teacher_training_flops"]
    assert by_name["plain"]["relative_student_flops"] == 1.0
    assert by_name["graded"]["method"] == "education"
    assert by_name["graded"]["changes"] == {"curriculum.exit_weight": 0.3}


def test_table_and_plots(swept):
    out, _ = swept
    text = (out / "sweep.md").read_text()
    assert "held-out part of the training split" in text and "equal student FLOPs" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == 2 + 3
    for name in ("sweep", "sweep-flops"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(out / f"{name}.svg")
    assert "graded" in (out / "report.html").read_text()
    assert (out / "plots" / "forgetting-graded.png").exists()


def test_teachers_are_trained_once_for_all_variants(swept):
    out, _ = swept
    assert len(list((out / "teachers").glob("*.safetensors"))) == 2 * 2  # sets, teachers asked
    assert not list((out / "runs").glob("*/teachers"))


def test_logits_are_kept_for_all_students_of_the_same_teachers(recipe):
    """Also where the sweep goes on in another place."""
    arguments = "sweep", recipe, "--only", "kd", "--cache", "--json", "--out"
    first = json.loads(edufast(*arguments, recipe.parent / "begun", "--seeds", 1).stdout)
    out = (recipe.parent / "begun").rename(recipe.parent / "moved")
    (header,) = (out / "caches").glob("*/header.json")
    table = header.with_name("teacher2.logits")
    asked = table.read_bytes()
    assert any(asked)
    second = json.loads(edufast(*arguments, out, "--seeds", 2).stdout)
    kd = [entries(summary)["kd"]["accuracy"]["values"] for summary in (first, second)]
    assert kd[1][0] == kd[0][0] and len(kd[1]) == 2
    # The second student asked for further views, and what was kept stays.
    more = table.read_bytes()
    assert more != asked and len(more) == len(asked)
    assert all(new == old for old, new in zip(asked, more, strict=True) if old)


def test_what_is_finished_stays_and_seeds_can_be_added(swept, recipe):
    out, _ = swept
    before = {path: path.read_bytes() for path in (out / "runs").glob("*/metrics.jsonl")}
    assert len(before) == 6
    edufast("resume", out)
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 3, "--teacher-seeds", 2, "--equal", "flops",
        "--set", "data.holdout=0.25", "--only", "plain", "--json",
    )  # fmt: skip
    assert entries(json.loads(result.stdout))["plain"]["seeds"] == [0, 1, 2]
    assert all(path.read_bytes() == content for path, content in before.items())
    others = {"kd": [0, 1], "graded": [0, 1], "plain": [0, 1, 2]}
    held = entries(json.loads((out / "sweep.json").read_text()))
    assert {name: held[name]["seeds"] for name in held} == others, "the folder holds them"
    assert all(f"| {name} |" in (out / "sweep.md").read_text() for name in others)
    assert all(entry["unfinished"] == [] for entry in held.values())
    assert len({e["method"] for e in events(out) if e["event"] == "result"}) == 3
    assert len([e for e in events(out) if e["event"] == "teacher"]) == 4
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 4, "--only", "plain", "--equal", "flops",
        "--set", "training.lr=0.2", "--set", "data.holdout=0.25", "--teacher-seeds", 2, code=2,
    )  # fmt: skip
    text = one_line(result)
    assert "holds a sweep of another recipe or with other options" in text
    assert "recipe.training.lr was 0.1, is 0.2" in text


def test_a_variant_that_another_sweep_named_is_kept_and_not_trained_further(swept, recipe):
    out, _ = swept
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 1, "--teacher-seeds", 2, "--equal", "flops",
        "--set", "data.holdout=0.25", "--set", "variants={}", "--vary", "method=grades",
        "--json",
    )  # fmt: skip
    summary = entries(json.loads(result.stdout))
    assert list(summary) == ["plain", "kd", "graded", "method=grades"]
    assert summary["method=grades"]["seeds"] == [0] and summary["kd"]["seeds"] == [0, 1]
    assert "1 of 1 trainings are done already" in one_line(edufast("resume", out))
    assert len(entries(json.loads((out / "sweep.json").read_text()))) == 4


def test_a_student_that_diverges_is_counted_and_the_others_go_on(recipe):
    out = recipe.parent / "diverged"
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 1, "--json", "--vary", "training.lr=1e30,0.1",
        "--only", "plain, training.lr=1e+30;plain, training.lr=0.1",
    )  # fmt: skip
    wild, tame = json.loads(result.stdout)["variants"]
    assert (wild["seeds"], wild["diverged"], wild["unfinished"]) == ([], [0], [])
    assert (tame["seeds"], tame["diverged"]) == ([0], [])
    assert "plain, training.lr=1e+30 (1)" in (out / "sweep.md").read_text()
    assert "done already" in edufast("resume", out).stderr  # not tried again
    # Nor by a process that joined before it had diverged in another one.
    tasks = plan_tasks(SweepConfig.read(out), out).students
    (task,) = [task for task in tasks if "lr=1e+30" in task.variant]
    assert task.run(message_console()) == DONE_ELSEWHERE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vary", "training.lr"), "--vary training.lr: expected key.subkey=value,value"),
        (("--vary", "training.lrr=1,2"), "training.lrr: unknown key; did you mean 'lr'?"),
        (("--vary", "method=magic"), "method is 'magic'; expected one of scratch, kd"),
        (("--only", "nothing"), "--only is 'nothing'; expected one of plain, kd, graded"),
        (("--equal", "money"), "--equal is 'money'; expected one of samples, flops, time"),
        (("--set", "variants.kd.training.lr=x"), "variants.kd"),
        (("--vary", "student.cuts=[x]"), "cannot cut after 'x'"),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(recipe, tmp_path, arguments, message):
    result = edufast("sweep", recipe, "--out", tmp_path / "out", *arguments, code=2)
    text = one_line(result)
    assert text.startswith("edufast: ") and message in text
    assert not (tmp_path / "out").exists()


def test_ctrl_c_stops_all_processes_and_the_sweep_resumes(recipe):
    out = recipe.parent / "stopped"
    command = [sys.executable, "-m", "edufast", "sweep", str(recipe), "--out", str(out), "--jobs",
               "2", "--seeds", "1", "--set", "curriculum.epochs=20"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (
            any(out.glob("teachers/*.safetensors"))
            and any('"epoch"' in path.read_text() for path in out.glob("runs/*/metrics.jsonl"))
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr.decode()
    assert "edufast resume" in stderr.decode()
    assert any(
        entry["unfinished"] for entry in json.loads((out / "sweep.json").read_text())["variants"]
    )
    teachers = {path: path.stat().st_mtime_ns for path in out.glob("teachers/*.safetensors")}
    assert teachers
    result = edufast("resume", out, "--json")
    assert all(entry["seeds"] == [0] for entry in json.loads(result.stdout)["variants"])
    assert teachers.items() <= {p: p.stat().st_mtime_ns for p in teachers}.items()


def test_processes_that_share_a_sweep_do_each_training_once(recipe):
    """As on two machines; who helps leaves the summary to who began."""
    out = recipe.parent / "shared"
    command = [sys.executable, "-m", "edufast"]
    options = ["--only", "plain;kd", "--seeds", "2", "--out", out]
    first = subprocess.Popen([*command, "sweep", recipe, *options], stderr=subprocess.DEVNULL)
    while not (out / "sweep.yaml").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = subprocess.run([*command, "resume", out, "--join"], capture_output=True, text=True)
    assert (first.wait(), second.returncode) == (0, 0), second.stderr
    assert entries(json.loads((out / "sweep.json").read_text()))["kd"]["unfinished"] == []
    for run in (out / "runs").iterdir():
        assert [e["event"] for e in events(run)].count("result") == 1
    (teacher,) = (out / "teachers").glob("*.jsonl")
    assert len(teacher.read_text().splitlines()) == len(set(teacher.read_text().splitlines()))


def test_what_is_joined_is_a_sweep_and_is_summarised_if_nobody_else_does(swept, recipe):
    out, _ = swept
    (out / "sweep.md").unlink()
    edufast("resume", out, "--join")
    assert (out / "sweep.md").exists()
    run = out / "runs" / "plain-0"
    assert "is not a sweep; expected" in one_line(edufast("resume", run, "--join", code=2))
