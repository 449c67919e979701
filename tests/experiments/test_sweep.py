"""Sweeps as a user runs them, on a tiny folder of pictures: teachers, resumption, summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from edufast.cli import app
from edufast.experiments.recipe import parse_recipe
from edufast.experiments.sweep import Sweep, SweepConfig, with_variants
from edufast.experiments.workers import run_tasks
from edufast.utils.errors import TrainingError, UserError
from tests.tiny import tiny_data

RECIPE = {
    "name": "tiny",
    "data": {"source": "?", "image_size": 16},
    "student": {"model": "resnet8"},
    "teachers": [
        {"model": "resnet8", "classes": "0-2"},
        {"model": "resnet8", "classes": "3-5"},
        {"model": "resnet8", "classes": "all"},
    ],
    "teacher_epochs": 1,
    "curriculum": {"preset": "default", "epochs": 3, "shares": [1, 2], "samples": 32},
    "training": {"batch_size": 16, "augment": {"pad": 1, "flip": False}},
    "teaching": {"batch_size": 16, "augment": {"pad": 1, "flip": False}},
    "variants": {
        "plain": {"method": "scratch"},
        "kd": {"method": "kd", "algorithm.alpha": 0.5},
        "graded": {"curriculum.exit_weight": 0.3},
    },
}


def edufast(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    data = tiny_data(per_class=8)
    for split, samples in (("train", data.train), ("val", data.val)):
        for number, (image, label) in enumerate(zip(samples.images, samples.labels, strict=True)):
            path = root / "pictures" / split / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    content = RECIPE | {"data": {"source": str(root / "pictures"), "image_size": 16}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return root / "recipe.yaml"


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
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 4, "--only", "plain", "--equal", "flops",
        "--set", "training.lr=0.2", "--set", "data.holdout=0.25", code=2,
    )  # fmt: skip
    assert "holds a run of another recipe" in " ".join(result.stderr.split())


def test_a_student_that_diverges_is_counted_and_the_others_go_on(recipe):
    out = recipe.parent / "diverged"
    result = edufast(
        "sweep", recipe, "--out", out, "--seeds", 1, "--json", "--vary", "training.lr=1e30,0.1",
        "--only", "plain, training.lr=1e30;plain, training.lr=0.1",
    )  # fmt: skip
    wild, tame = json.loads(result.stdout)["variants"]
    assert (wild["seeds"], wild["diverged"], wild["unfinished"]) == ([], [0], [])
    assert (tame["seeds"], tame["diverged"]) == ([0], [])
    assert "plain, training.lr=1e30 (1)" in (out / "sweep.md").read_text()
    assert "done already" in edufast("resume", out).stderr  # not tried again


def test_vary_makes_every_combination(recipe):
    base = parse_recipe(yaml.safe_load(recipe.read_text()) | {"variants": {}})
    assert list(with_variants(base).variants) == [
        "scratch", "kd", "routed", "alone", "grades", "education",
    ]  # fmt: skip
    varied = with_variants(base, ["method=alone,education", "training.lr=0.1,0.2"]).variants
    assert varied["method=alone, training.lr=0.2"] == {"method": "alone", "training.lr": 0.2}
    assert len(varied) == 4
    lists = with_variants(base, ["curriculum.shares=[1,1],[1,6]"]).variants
    assert [v["curriculum.shares"] for v in lists.values()] == [[1, 1], [1, 6]]
    own = base.model_copy(update={"variants": {"a": {"training.lr": 0.3}}})
    assert with_variants(own, ["seed=1,2"]).variants == {
        "a, seed=1": {"training.lr": 0.3, "seed": 1},
        "a, seed=2": {"training.lr": 0.3, "seed": 2},
    }


# What a variant changes, and how many of its two teachers can be those of the plain recipe (nobody
# asks the one of the last slice).
@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"training.lr": 0.5}, 2),  # `teaching` says how teachers are trained
        ({"teaching.lr": 0.5}, 0),
        ({"teacher_epochs": 2}, 0),
        ({"teachers.0.epochs": 5}, 1),
        ({"teachers.0.epochs": 1}, 2),  # as teacher_epochs says
        ({"student.model": "resnet14"}, 2),
        ({"seed": 1}, 0),
        ({"data.seed": 1}, 0),
    ],
)
def test_variants_share_the_teachers_that_are_the_same(recipe, tmp_path, changes, shared):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    both = base.model_copy(update={"variants": {"plain": {}, "changed": changes}})
    sweep = Sweep(SweepConfig(recipe=both, seeds=1), tmp_path)
    assert len(sweep.teachers) == 4 - shared


def test_each_seed_has_its_teachers_and_data(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    config = SweepConfig(recipe=base, seeds=4, teacher_seeds=2, data_seeds=3)
    students = [task for task in Sweep(config, tmp_path).students if task.variant == "kd"]
    assert [task.recipe.seed for task in students] == [0, 1, 0, 1]
    assert [task.recipe.data.seed for task in students] == [0, 1, 2, 0]


def test_equal_time_waits_for_its_reference(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    sweep = Sweep(SweepConfig(recipe=base, seeds=2, equal="time"), tmp_path)
    references = {task.name: task.reference for task in sweep.students}
    assert references["kd, seed 1"] == tmp_path / "runs" / "graded-1"
    assert references["graded, seed 1"] is None
    order = [task.product.name for task in sweep._ordered() if task in sweep.students]
    assert order[:3] == ["graded-0", "plain-0", "kd-0"]
    with pytest.raises(UserError, match="expected a variant with the method education"):
        only = with_variants(base, only=["kd"])
        Sweep(SweepConfig(recipe=only, seeds=2, equal="time"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vary", "training.lr"), "--vary training.lr: expected key.subkey=value,value"),
        (("--vary", "training.lrr=1,2"), "training.lrr: unknown key; did you mean 'lr'?"),
        (("--vary", "method=magic"), "method: found 'magic'; expected one of scratch, kd"),
        (("--only", "nothing"), "--only: 'nothing'; expected some of plain, kd, graded"),
        (("--equal", "money"), "--equal: 'money'; expected one of samples, flops, time"),
        (("--set", "variants.kd.training.lr=x"), "variants.kd"),
        (("--vary", "student.cuts=[x]"), "cannot cut after 'x'"),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(recipe, tmp_path, arguments, message):
    result = edufast("sweep", recipe, "--out", tmp_path / "out", *arguments, code=2)
    text = " ".join(result.stderr.split())
    assert text.startswith("edufast: ") and message in text
    assert not (tmp_path / "out").exists()


def test_ctrl_c_stops_all_processes_and_the_sweep_resumes(recipe):
    out = recipe.parent / "stopped"
    command = [sys.executable, "-m", "edufast", "sweep", str(recipe), "--out", str(out), "--jobs",
               "2", "--seeds", "1", "--set", "curriculum.epochs=20"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not any('"epoch"' in p.read_text() for p in out.glob("runs/*/metrics.jsonl")):
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


class FileTask:
    """Writes its file once those it needs are there; the text of `verb` says how it ends."""

    def __init__(self, product: Path, needs: tuple[Path, ...] = (), verb: str = "write") -> None:
        self.product, self.needs, self.verb = product, needs, verb

    @property
    def name(self) -> str:
        return self.product.name

    def done(self) -> bool:
        return self.product.exists()

    def run(self, console) -> str:
        assert all(path.exists() for path in self.needs)
        if self.verb == "die":
            os._exit(3)
        self.product.write_text(str(os.getpid()))
        return "written"


def test_processes_keep_the_order_and_tell_a_failure(tmp_path):
    a, b, c, bad, late = (tmp_path / name for name in ("a", "b", "c", "bad", "late"))
    tasks = [
        FileTask(a),
        FileTask(b, (a,)),
        FileTask(c),
        FileTask(bad, (a, b, c), verb="die"),
        FileTask(late, (bad,)),
    ]
    with pytest.raises(TrainingError, match=r"bad: its process ended, see .*worker.\.log"):
        run_tasks(tasks, 2, tmp_path / "logs", Console(quiet=True))
    assert a.exists() and b.exists() and c.exists() and not late.exists()
    assert a.read_text() != c.read_text(), "processes share the work"
