"""The CUDA kernels as nvcc compiles them: registers for the planned threads, hardly a spill."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# 65,536 registers hold two blocks of 256 threads at 128 each; float64 is for checking only. The
# staged kernels' are in csrc/cuda/kd_loss_plan.h; what they keep of a row elsewhere is a few words,
# which an H100 showed to cost less than a quarter of the warps. Those for plain rows keep more, of
# the rows that are not.
MOST_REGISTERS = {"kernelId": 255, "staged": 80, "": 128}
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def kernels_of(source: str, architecture: int, folder: Path) -> dict[str, re.Match[str]]:
    """What the compiler reports of every kernel of a file, by mangled name."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    command = [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-DEDUFAST_HAS_CUDA", "-c"]
    command += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v"]
    # As CMake builds it: with --split-compile some kernels spill, others from run to run.
    command += [str(ROOT / "csrc" / "cuda" / source), "-o", str(folder / "kernels.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {m["name"]: m for m in ENTRY.finditer(done.stderr)}


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_no_spills(architecture, tmp_path):
    kernels = kernels_of("kd_loss.cu", architecture, tmp_path)
    # Four divergences, by warp and by block, with and without 16-byte accesses; float64; one more.
    # Three types of three divergences by block, and of two by part of a warp; of plain rows in
    # three ways.
    assert len(kernels) == 4 * 4 + 4 + 1 + 3 * (3 + 2) + 3 * 3
    for name, m in kernels.items():
        most = next(most for part, most in MOST_REGISTERS.items() if part in name)
        assert int(m["registers"]) <= most, name
        stack = 0 if "staged" not in name else 224 if "ELb1E" in name else 72
        assert int(m["stack"]) <= stack, name


@pytest.mark.parametrize("architecture", [75, 80, 90, 100])
@pytest.mark.parametrize(("source", "count"), [("dist_loss.cu", 27), ("min_norm.cu", 15)])
def test_no_spills_in_the_other_losses(source, count, architecture, tmp_path):
    kernels = kernels_of(source, architecture, tmp_path)
    assert len(kernels) == count
    for name, m in kernels.items():
        assert int(m["stores"]) == int(m["loads"]) == 0, name
        # With 16-byte accesses two blocks of 256 threads are resident; names have Lb1 then.
        assert int(m["registers"]) <= (128 if "IfLb1" in name else 255), name
