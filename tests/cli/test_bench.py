"""Commands that measure: what they refuse. What they measure is tested with edufast.bench."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from edufast.bench.results import write
from edufast.bench.timing import machine
from edufast.edge.contract import file_hash
from edufast.edge.device_rows import DeviceRow
from edufast.experiments.run_folder import RunFolder
from edufast.utils.lock import folder_lock
from tests.commands import edufast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--batch", "64,many"), "--batch: 'many'; expected positive integers"),
        (("train", "--batch", "0"), "--batch: '0'; expected positive integers"),
        (("train", "--batch", "9" * 5000), "9'; expected positive integers"),
        (("train", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (("train", "--pairs", "resnet9"), "resnet9"),
        (("kd", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (("merge", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (
            ("edge", "nowhere"),
            "nowhere has no student*.onnx, no student*.pte, no student*.tflite; expected",
        ),
        (("edge", "nowhere", "board.jsonl"), "board.jsonl cannot be read"),
        (("all", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (("diff", "a", "b"), "a and b have no measurement in common; expected one of kd_loss.json"),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = edufast("bench", *arguments, code=2)
    assert result.stderr.startswith("edufast: ") and message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_on_a_device_is_in_the_runs_report(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    file = run / "student.onnx"
    row = DeviceRow(file.name, file_hash(file), "<board>", "1.20.0", 9.0, 4.321, 5.0, 61_000_000, 1)
    table = tmp_path / "board.jsonl"
    for measured in (replace(row, median_ms=9.9), row):  # the later one counts
        table.write_text(json.dumps(asdict(measured)) + "\n")
        edufast("bench", "edge", run, table)
    page = (run / "report.html").read_text()
    assert "&lt;board&gt;" in page and "4.32 ms" in page and "9.90 ms" not in page
    (event,) = RunFolder(run).log().devices
    assert event.machine == "<board>" and event.peak_bytes == 61_000_000
    before = (run / "metrics.jsonl").read_text()
    table.write_text(json.dumps(asdict(replace(row, sha256="ab"))) + "\n")
    result = edufast("bench", "edge", run, table, code=2)
    assert "does not hold the student.onnx that was measured on <board>" in result.stderr
    assert (run / "metrics.jsonl").read_text() == before
    shutil.rmtree(run)
    assert "holds no run" in edufast("bench", "edge", run, table, code=2).stderr
    assert not run.exists()


def test_diff_ends_with_code_1_where_something_became_slower(tmp_path):
    def measured(folder: str, seconds: float) -> str:
        times = {"median": seconds, "low": 0.99 * seconds, "high": 1.01 * seconds}
        results = {"eager": {"median": 1.0, "low": 1.0, "high": 1.0}, "cpp": times}
        contest = {"size": 32, "dtype": "fp32", "results": results}
        write(tmp_path / folder / "augment.json", machine("cpu"), True, [contest])
        return str(tmp_path / folder)

    before, after = measured("before", 0.1), measured("after", 0.12)
    told = edufast("bench", "diff", before, after, code=1).stdout.splitlines()
    assert told[0] == (
        "slower: augment, 128 images of 32 pixels, fp32, cpp: 100 ms -> 120 ms, 1.20 times as long"
    )
    assert told[-1] == "1 compared: 1 slower, 0 faster, 0 within the noise"
    assert edufast("bench", "diff", after, before).stdout.startswith("faster: augment")
    assert "1 within the noise" in edufast("bench", "diff", before, before).stdout


def test_without_a_compiler_what_compares_with_compiled_code_ends_in_one_line(tmp_path) -> None:
    command = [sys.executable, "-m", "edufast", "bench", "kd", "--quick"]
    env = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    told = (
        "edufast: torch.compile, which is part of the measurement, does not work here: "
        "InvalidCxxCompiler"
    )
    progress, line = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(told) and "(1 of 4)" in progress


@pytest.mark.parametrize(
    "command",
    [
        "kd",
        "kd --model",
        "dist",
        "min-norm",
        "merge",
        "augment",
        "train",
        "train --profile",
        "train --accuracy",
        "export",
        "all",
    ],
)
def test_a_folder_in_use_or_a_file_is_refused_before_anything_is_measured(command, tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    file.write_text("")
    with folder_lock(folder):
        refused = edufast("bench", *command.split(), "-o", folder, code=2)
    assert "is in use by process" in refused.stderr
    assert len(edufast("bench", *command.split(), "-o", file, code=1).stderr.splitlines()) == 1
    assert not list(folder.glob("[!.]*"))
