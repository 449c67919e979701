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
# which an H100 showed to cost less than a quarter of the warps.
MOST_REGISTERS = {"kernelId": 255, "staged": 80, "": 128}
MOST_STACK = {"staged": 64, "": 0}  # bytes
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_no_spills(architecture, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    source = ROOT / "csrc" / "cuda" / "kd_loss.cu"
    command = [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-DEDUFAST_HAS_CUDA", "-c"]
    command += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v"]
    # As CMake builds it: with --split-compile some kernels spill, others from run to run.
    command += [str(source), "-o", str(tmp_path / "kd_loss.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = {m["name"]: m for m in ENTRY.finditer(done.stderr)}
    # Four divergences, by warp and by block, with and without 16-byte accesses; float64; one more.
    # Three types of three divergences by block, and of two by part of a warp.
    assert len(kernels) == 4 * 4 + 4 + 1 + 3 * (3 + 2)
    for name, m in kernels.items():
        for most_of, found in ((MOST_STACK, "stack"), (MOST_REGISTERS, "registers")):
            most = next(most for part, most in most_of.items() if part in name)
            assert int(m[found]) <= most, f"{name}: {found}"
