"""Commands that train, on a folder of pictures of one's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from edufast.cli.train import results_table, sweep_table
from edufast.experiments.events import ResultEvent
from edufast.experiments.report.summary import Means, Spread, SweepSummary, VariantSummary
from edufast.models.weights import load_model
from edufast.models.zoo import create_model
from tests.commands import edufast, events, one_line, words
from tests.experiments import logs


def test_a_run_leaves_what_it_promises(run):
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "student.safetensors",
        "student.onnx",
        "report.html",
        "checkpoints/education-0.pt",
        "teachers/teacher2.safetensors",
    ):
        assert (run / name).is_file(), name
    assert any((run / "plots").glob("*.png"))
    kinds = {event["event"] for event in events(run)}
    assert kinds == {
        "run", "teacher", "compile", "step", "epoch", "grade", "phase", "budget", "result", "export"
    }  # fmt: skip
    assert all(0 < e["data_wait"] < 1 for e in events(run) if e["event"] == "result")
    assert yaml.safe_load((run / "config.yaml").read_text())["recipe"]["training"]["lr"] == 0.1


def test_methods_see_the_same_number_of_samples(run):
    samples = {e["method"]: e["samples"] for e in events(run) if e["event"] == "result"}
    assert abs(samples["scratch"] - samples["education"]) <= 4 * 16  # a batch an epoch


def test_the_student_is_a_plain_resnet_and_the_onnx_file_agrees_with_it(run, folder):
    model = create_model("resnet8", 6)
    model.load_state_dict(load_file(run / "student.safetensors"))
    model, info = load_model(run / "student.safetensors")
    assert info.classes == tuple(f"c{c}" for c in range(6))
    files = sorted((folder / "pictures" / "val").rglob("*.png"))[:5]
    images = np.stack([np.asarray(Image.open(path)) for path in files])
    normalised = (torch.tensor(images) / 255 - torch.tensor(info.mean)) / torch.tensor(info.std)
    with torch.no_grad():
        expected = model(normalised.permute(0, 3, 1, 2).float())
    session = onnxruntime.InferenceSession(run / "student.onnx")
    (logits,) = session.run(None, {"image": images})
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_not_repeated(run):
    before = (run / "metrics.jsonl").read_text()
    edufast("resume", run)
    assert [
        e
        for e in (run / "metrics.jsonl").read_text()[len(before) :].splitlines()
        if json.loads(e)["event"] != "export"
    ] == []


def test_a_folder_with_another_run_is_refused(run, folder):
    result = edufast("train", folder / "recipe.yaml", "--out", run, "--set", "seed=1", code=2)
    text = one_line(result)
    assert "holds a run of another recipe" in text and "recipe.seed was 0, is 1" in text


def test_an_edited_config_does_not_resume(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.1", "lr: 0.3"))
    text = one_line(edufast("resume", tmp_path / "run", code=2))
    assert "was changed since the run began: recipe.training.lr was 0.1, is 0.3" in text


def test_compare_reports_every_method_and_seed_and_shares_teachers(run, folder):
    result = edufast(
        "compare", folder / "recipe.yaml", "--out", folder / "compare", "--teachers", run,
        "--seeds", 2, "--methods", "scratch,routed,education", "--json",
    )  # fmt: skip
    accuracy = json.loads(result.stdout)["accuracy"]
    assert {m: sorted(by_seed) for m, by_seed in accuracy.items()} == {
        m: ["0", "1"] for m in ("scratch", "routed", "education")
    }
    assert not (folder / "compare" / "teachers").exists()
    results = {
        (e["method"], e["seed"]): e for e in events(folder / "compare") if e["event"] == "result"
    }
    assert len(results) == 6
    assert (
        results["scratch", 0]["teacher_flops"]
        == 0
        == results["scratch", 0]["teacher_training_flops"]
    )
    assert (
        results["routed", 0]["teacher_flops"] > 0 < results["routed", 0]["teacher_training_flops"]
    )
    assert results["education", 0]["student_flops"] < results["scratch", 0]["student_flops"]


@pytest.mark.parametrize(
    ("methods", "taught"),
    [("scratch", []), ("kd", [6]), ("routed,kd", [2, 2, 2, 6])],
)
def test_only_the_teachers_that_are_asked_are_trained(folder, methods, taught):
    """Plain distillation asks one of all classes, which the recipe does not have."""
    out = folder / methods
    edufast("compare", folder / "recipe.yaml", "--out", out, "--seeds", 1, "--methods", methods,
            "--set", "teacher_epochs=1", "--set", "curriculum.epochs=3")  # fmt: skip
    assert [len(e["classes"]) for e in events(out) if e["event"] == "teacher"] == taught


def test_the_best_epoch_stands_beside_the_last(run):
    (result,) = (e for e in events(run) if e["event"] == "result" and e["method"] == "education")
    epochs = [e for e in events(run) if e["event"] == "epoch" and e["method"] == "education"]
    assert result["accuracy"] == epochs[-1]["accuracy"]
    # Epochs before the third grade know fewer classes and do not count.
    complete = [e["accuracy"] for e in epochs if e["grade"] == 3]
    assert result["best_accuracy"] == max(complete)
    assert result["best_epoch"] == 2 + complete.index(max(complete)) + 1


def test_every_method_tells_what_it_knows_of_each_slice(run):
    for result in (e for e in events(run) if e["event"] == "result"):
        free, masked = result["slice_accuracy"], result["slice_accuracy_masked"]
        assert len(free) == len(masked) == 3
        assert sum(free) / 3 == pytest.approx(result["accuracy"]), "slices are of one size"
        assert all(f <= m for f, m in zip(free, masked, strict=True))
    assert "scratch, within the slice" in (run / "report.html").read_text()


def test_equal_time_measures_the_pace_once(run, folder):
    edufast("compare", folder / "recipe.yaml", "--out", folder / "time", "--teachers", run,
            "--seeds", 2, "--methods", "grades,education", "--equal", "time")  # fmt: skip
    log = events(folder / "time")
    methods = [e["method"] for e in log if e["event"] == "result"]
    assert methods == ["education", "education", "grades", "grades"], "education goes first"
    (budget,) = (e for e in log if e["event"] == "budget")
    spent = [
        e["training_seconds"] for e in log if e["event"] == "result" and e["method"] == "education"
    ]
    assert budget["seconds"] == pytest.approx(sum(spent) / 2)
    assert budget["samples"] == round(budget["seconds"] * budget["images_per_second"])
    samples = {e["samples"] for e in log if e["event"] == "result" and e["method"] == "grades"}
    assert len(samples) == 1 and abs(samples.pop() - budget["samples"]) <= 4 * 16


def test_a_run_in_a_relative_place_resumes_from_anywhere(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    edufast(
        "train", "recipe.yaml", "--data", "pictures", "--out", "relative", "--teachers", "run",
        "--set", "baselines=[]", "--set", "curriculum.epochs=3",
    )  # fmt: skip
    monkeypatch.chdir(folder.parent)
    edufast("resume", folder / "relative")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("lr: 0.1", "lr: fast"), "recipe.training.lr: found 'fast'"),
        (lambda text: text.replace("seeds:", "sedes:"), "sedes: unknown key; did you mean 'seeds'"),
        (lambda text: text.partition("recipe:")[0], "recipe: missing"),
        (lambda text: text + "}", "not valid YAML"),
        (lambda text: "- 1", "found list; expected keys and values"),
        (lambda text: text.replace("methods:", "methods: 3 #"), "not valid YAML"),
    ],
)
def test_a_damaged_config_is_told_in_one_line(run, tmp_path, damage, message):
    (tmp_path / "config.yaml").write_text(damage((run / "config.yaml").read_text()))
    result = edufast("resume", tmp_path, code=2)
    text = one_line(result)
    assert text.startswith("edufast: ") and "config.yaml: " in text and message in text


def test_answers_stored_ahead_teach_every_later_student(run, folder):
    quick = "--set", "teacher_epochs=1", "--set", "curriculum.epochs=3"
    taught = folder / "cached"
    teach = "teach", folder / "recipe.yaml", "--out", taught, "--cache", *quick
    answers = 3 * 6 * 24 * 9  # gated: in the end each teacher is asked about all six classes
    assert f"logits of {answers:,} views stored" in one_line(edufast(*teach))
    assert "cache: logits of 0 views stored" in one_line(edufast(*teach))
    for method in ("education", "routed"):
        out = folder / f"cached-{method}"
        edufast(
            "compare", folder / "recipe.yaml", "--teachers", taught, "--cache", taught / "cache",
            "--seeds", 2, "--methods", method, "--out", out, *quick,
        )  # fmt: skip
        results = [e for e in events(out) if e["event"] == "result"]
        assert [e["teacher_flops"] for e in results] == [0, 0]
    result = edufast(
        "train", folder / "recipe.yaml", "--teachers", run, "--out", folder / "others",
        "--cache", taught / "cache", *quick, code=2,
    )  # fmt: skip
    assert "holds logits of another teacher 0" in one_line(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.augment.random_resized_crop=[0.2,1]", "expected augment.replay, the number"),
        ("algorithm.name=fitnet", "--cache: fitnet reads the teachers' features"),
    ],
)
def test_what_cannot_be_cached_is_told_before_anything_is_trained(folder, change, message):
    out = folder / "uncacheable"
    arguments = folder / "recipe.yaml", "--out", out, "--cache", folder / "c", "--set", change
    result = edufast("train", *arguments, code=2)
    assert message in one_line(result) and not out.exists()


def test_teachers_of_other_classes_or_other_images_are_refused(folder):
    edufast(
        "teach", folder / "recipe.yaml", "--out", folder / "taught", "--set", "teacher_epochs=1"
    )
    weights = folder / "taught" / "teachers" / "teacher1.safetensors"
    result = edufast(
        "train",
        folder / "recipe.yaml",
        "--set",
        f"teachers.0.weights={weights}",
        "--out",
        folder / "wrong",
        code=2,
    )
    assert "knows classes 2..3 (2)" in one_line(result)
    result = edufast(
        "train", folder / "recipe.yaml", "--set", f"teachers.1.weights={weights}",
        "--set", "data.holdout=0.5", "--out", folder / "leak", code=2,
    )  # fmt: skip
    assert "draws and holds them out" in one_line(result)


def test_one_command_trains_on_a_folder_without_a_recipe(folder):
    result = edufast(
        "train", "folder", "--data", folder / "pictures", "--out", folder / "one", "--json",
        "--minutes", 0.1,
    )  # fmt: skip
    assert "education" in json.loads(result.stdout)["accuracy"]
    assert (folder / "one" / "student.onnx").is_file()


def test_exits_become_smaller_students_of_the_same_run(run, folder):
    out = folder / "exits"
    edufast(
        "train", folder / "recipe.yaml", "--out", out, "--teachers", run,
        "--set", "curriculum.exit_weight=0.3", "--set", "baselines=[]",
    )  # fmt: skip
    exported = [e for e in events(out) if e["event"] == "export"]
    # How often the best student so far is exported depends on the time that training takes.
    unfinished, exports = exported[:-3], exported[-3:]
    assert {e["path"] for e in unfinished} == {"student.onnx"}
    assert [e["path"] for e in exports] == [
        "student-exit1.onnx", "student-exit2.onnx", "student.onnx"
    ]  # fmt: skip
    assert [e.get("exit") for e in exports] == [1, 2, None]
    assert exports[0]["bytes"] < exports[1]["bytes"] < exports[2]["bytes"]
    assert all(e["agreement"] == 1.0 and e["latency_ms"] > 0 for e in exports)
    # Over the whole validation split, which the last epoch validated, too.
    (result,) = (e for e in events(out) if e["event"] == "result")
    assert exports[-1]["accuracy"] == pytest.approx(result["accuracy"])
    assert all(0 <= e["accuracy"] <= 1 for e in exports)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nowhere.yaml"), "recipe is 'nowhere.yaml'; expected one of"),
        (("train", "quickstart", "--set", "training.lr=fast"), "training.lr: found 'fast'"),
        (("train", "quickstart", "--data", "nowhere"), "nowhere"),
        (("train", "quickstart", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (
            ("compare", "quickstart", "--methods", "kd,magic"),
            "--methods is 'magic'; expected one of scratch, kd",
        ),
        (("resume", "nowhere"), "nowhere holds no run"),
        # Nothing is trained, and no folder made, before these are noticed.
        (
            ("train", "digits", "--set", "budget.flash=2k"),
            "budget: no exit of resnet8 fits, the smallest takes 8.0k of flash",
        ),
        (
            ("train", "quickstart", "--set", "student.model=resnet9"),
            "student: model is 'resnet9'; did you mean",
        ),
        (
            ("train", "quickstart", "--set", "teachers.3.model=resnet9"),
            "teachers.3: model is 'resnet9'; did you mean",
        ),
        (("train", "quickstart", "--set", "student.cuts=[x, y]"), "cannot cut after 'x'"),
        (
            ("train", "quickstart", "--set", "training.augment.random_resized_crop=[0.3, 1.0]"),
            "random_resized_crop: for image files only",
        ),
        (
            (
                "train",
                "quickstart",
                "--set",
                "curriculum={grades: [{epochs: 1, classes: 0-59, teachers: [0], target: full}]}",
            ),
            "needs teacher 0 (teacher), but it does not know class 20",
        ),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = edufast(*arguments, code=2)
    text = one_line(result)
    assert text.startswith("edufast: ") and message in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/run", "x" * 300])
def test_a_run_folder_that_cannot_be_made_is_told_in_one_line(folder, tmp_path, name):
    (tmp_path / "file").write_text("precious")
    result = edufast("train", folder / "recipe.yaml", "--out", tmp_path / name, code=1)
    text = one_line(result)
    assert text.startswith("edufast: ") and "Traceback" not in text
    assert any(reason in text for reason in ("File exists", "Not a directory", "name too long"))
    assert (tmp_path / "file").read_text() == "precious"


def test_ctrl_c_leaves_a_run_that_resumes(folder):
    out = folder / "stopped"
    command = [sys.executable, "-m", "edufast", "train", str(folder / "recipe.yaml"), "--out",
               str(out), "--set", "curriculum.epochs=30", "--set", "baselines=[]"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        metrics = out / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and '"epoch"' in metrics.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert re.search(r"stopped; continue with:\s+edufast resume", stderr.decode())
    assert "result" not in {event["event"] for event in events(out)}
    assert not (out / "report.html").exists(), "nobody waits for a report"
    edufast("resume", out)
    assert (out / "report.html").exists()
    (result,) = (e for e in events(out) if e["event"] == "result")
    assert result["samples"] == 8 * 48 + 7 * 96 + 15 * 144


def test_ctrl_c_leaves_the_best_so_far_and_decisions_that_stay(folder, tmp_path):
    out, pictures = tmp_path / "run", folder / "pictures"
    arguments = ["train", "folder", "--data", pictures, "--minutes", "0.4", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "edufast", *map(str, arguments)],
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not (out / "student.onnx").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    told = " ".join(stderr.decode().split())
    assert "recipe key decided because" in told and "curriculum.grades 1 " in told
    assert "usable: student.onnx" in told and "stopped; continue with" in told
    picture = next((pictures / "val" / "c3").iterdir())
    (answer,) = map(json.loads, edufast("predict", out, picture, "--json").stdout.splitlines())
    assert Path(answer["picture"]) == picture
    assert not (out / "student.safetensors").exists()
    before = (out / "config.yaml").read_bytes()
    edufast("export", out, "--out", tmp_path / "again.onnx")

    result = edufast(*arguments, "--json")  # the same command goes on, as resume would
    assert (out / "config.yaml").read_bytes() == before
    assert set(json.loads(result.stdout)["accuracy"]) == {"education"}
    assert (out / "student.safetensors").exists() and not (out / "best.safetensors").exists()
    changed = edufast(*arguments, "--set", "training.lr=0.05", code=2)
    assert "recipe.training.lr was 0.1, is 0.05" in one_line(changed)
    assert "because" not in changed.stderr, "what is refused is not decided"


def test_minutes_are_for_recipes_that_leave_their_length_open(folder):
    result = edufast("train", folder / "recipe.yaml", "--minutes", 1, code=2)
    assert "--minutes" in one_line(result) and "expected a recipe such as folder" in one_line(
        result
    )


def test_all_packages_that_are_missing_are_told_first(monkeypatch):
    for package in ("matplotlib", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    assert one_line(edufast("train", "folder", "--data", "nowhere", code=2)) == (
        "edufast: training needs matplotlib, onnx: pip install 'edufast[train,export]'"
    )


def test_a_sweep_needs_a_whole_recipe(folder):
    assert "folder leaves values open that are" in one_line(edufast("sweep", "folder", code=2))


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (signal.SIGTERM, "train_teacher"),
        (signal.SIGHUP, "load_teacher"),
        (signal.SIGTERM, "export_student"),
    ],
    ids=lambda of: getattr(of, "name", of),
)
def test_a_signal_outside_the_training_loop_leaves_a_run_that_resumes(
    folder, tmp_path, monkeypatch, number, place
):
    before = signal.signal(number, lambda *_: pytest.fail("the signal was not caught"))
    short = "curriculum.epochs=3", "teacher_epochs=1", "baselines=[]"
    options = [part for change in short for part in ("--set", change)]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(
                f"edufast.experiments.run.{place}", lambda *_, **__: signal.raise_signal(number)
            )
            result = edufast("train", folder / "recipe.yaml", "-o", tmp_path / "run", *options,
                             code=130)  # fmt: skip
    finally:
        signal.signal(number, before)
    assert f"stopped; continue with: edufast resume {tmp_path / 'run'}" in one_line(result)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "report.html" not in left
    # Where the student was trained, the best of its epochs is there.
    assert ({"student.onnx", "best.safetensors"} <= left) == (place == "export_student")
    edufast("resume", tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"student.onnx", "report.html"} <= left and "best.safetensors" not in left


def test_a_run_that_is_stopped_before_it_began_is_not_to_be_resumed(folder, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal was not caught"))
    monkeypatch.setattr(
        "edufast.experiments.run_setup.plan_methods", lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    try:
        result = edufast("train", folder / "recipe.yaml", "-o", tmp_path / "run", code=130)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert one_line(result) == "edufast: stopped" and not (tmp_path / "run").exists()


def rendered(table, columns):
    console = Console(width=columns, markup=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def result_event(method, seed):
    fields = logs.result(method, seed, 0.9123, 1.18e12)
    del fields["event"]
    return ResultEvent(**fields)


def summary_of(*variants):
    """Of a sweep whose variants have these names, twelve seeds each."""
    spread = Spread.of([0.9 + 0.005 * seed for seed in range(12)])
    means = Means(spread, spread, [], [], 1.0, 6.54e14, 1.0, 1.0, 1.0, 1.0, 12.34)
    of = [VariantSummary(name, "education", {}, [*range(12)], [], [], means) for name in variants]
    return SweepSummary("tiny", "validation", "samples", 12, 1, 1, of)


def test_the_table_of_a_comparison_fits_eighty_columns_with_every_word_whole():
    results = {m: {s: result_event(m, s) for s in (0, 1)} for m in ("education", "scratch")}
    narrow, wide = (rendered(results_table(results), columns) for columns in (80, 300))
    assert narrow == wide
    assert "91.2 ± 0.0 %" in narrow and "1.18 TFLOP" in narrow


def test_the_table_of_a_sweep_fits_eighty_columns_with_every_word_whole():
    long = "method=education, algorithm.temperature=4.0, curriculum.exit_weight=0.3"
    narrow, wide = (rendered(sweep_table(summary_of("kd", long)), c) for c in (80, 300))
    assert max(map(len, narrow.splitlines())) <= 80
    assert words(narrow) == words(wide)
    (row,) = (line.split("   ") for line in narrow.splitlines() if line.startswith("kd "))
    assert [cell.strip() for cell in row if cell.strip()] == [
        "kd", "92.8 ± 1.8 %", "92.8 ± 1.8 %", "654 T (12.34 ×)"
    ]  # fmt: skip
