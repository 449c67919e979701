"""tools/gpu_check.sh, run dry: what a GPU will run, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ["build", "tests", "triton", "kernels", "steps", "sanitizer", "profile"]


def gpu_check(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "tools/gpu_check.sh", *arguments],
        env=os.environ | {"PYTHON": sys.executable, "OUT": str(out)},
        capture_output=True,
        text=True,
    )


def test_every_part_runs_once_and_a_table_comes_last(tmp_path: Path) -> None:
    done = gpu_check(tmp_path, "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[4:] for line in lines if line.startswith("--- ")] == PARTS
    shown = lines[lines.index("gpu-check on dry, ratios to the copy measured alongside") :]
    assert any(line.startswith("step ") for line in shown)
    assert sum(line.startswith("kd ") and line.endswith("%") for line in shown) > 4
    assert [line.split(":")[0] for line in shown[-len(PARTS) :]] == PARTS
    assert len([*tmp_path.iterdir()]) <= 8
    again = gpu_check(tmp_path, "--dry")
    assert again.returncode == 0 and "---" not in again.stdout
    assert again.stdout.split() == " ".join(shown).split()


def test_a_part_that_is_asked_for_is_repeated_but_not_its_measurements(tmp_path: Path) -> None:
    first, again = (gpu_check(tmp_path, "--dry", "steps") for _ in range(2))
    assert "step B=8 eager: images/s" in first.stdout
    assert "--- steps" in again.stdout and "step B=8 eager: images/s" not in again.stdout


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = gpu_check(tmp_path, "--dry", "kernel")
    assert done.returncode == 2 and "gpu-check: no part is called 'kernel'" in done.stdout
