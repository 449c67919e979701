"""The CUDA kernels as nvcc compiles them: registers for the planned threads, hardly a spill."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import edufast._native
from edufast.bench.sass import tool

ROOT = Path(__file__).parents[2]
# 65,536 registers hold two blocks of 256 threads at 128 each; float64 is for checking only. The
# staged kernels' are in csrc/cuda/kd_loss_plan.h; what they keep of a row elsewhere is a few words,
# which an H100 showed to cost less than a quarter of the warps. Those for plain rows keep more, of
# the rows that are not.
KERNEL = {"kd_loss.cu": "kd_loss", "dist_loss.cu": "dist_", "min_norm.cu": "gram"}  # in names
MOST_REGISTERS = {"kernelId": 255, "staged": 80, "": 128}
# What ptxas reports of a kernel that it compiles, and cuobjdump of one in a library.
COMPILED = re.compile(
    r"Compiling entry function '(\w+)'.*?(?P<stack>\d+) bytes stack frame.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
BUILT = re.compile(r"Function (\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+)")
LIBRARY = Path(edufast._native.__file__).with_name("libedufast.so")


class Use(NamedTuple):
    """What a kernel takes. A stack of more than a word or two holds spilled registers."""

    registers: int
    stack: int  # bytes


@cache
def built() -> list[tuple[int, dict[str, Use]]]:
    """Architecture and kernels of each file with CUDA code in the library."""
    command = [tool("cuobjdump"), "-res-usage", LIBRARY]
    listing = subprocess.run(command, capture_output=True, text=True).stdout
    parts = re.split(r"^arch = sm_(\d+)", listing, flags=re.MULTILINE)[1:]
    return [
        (int(architecture), uses(BUILT, text))
        for architecture, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def kernels_of(source: str, architecture: int, folder: Path) -> dict[str, Use]:
    """The kernels of a file by mangled name: from the library if it was built for the
    architecture, else compiled."""
    for known, kernels in built():
        if known == architecture and any(KERNEL[source] in name for name in kernels):
            return kernels
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    command = [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-DEDUFAST_HAS_CUDA", "-c"]
    command += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v"]
    # As CMake builds it: with --split-compile some kernels spill, others from run to run.
    command += [str(ROOT / "csrc" / "cuda" / source), "-o", str(folder / "kernels.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return uses(COMPILED, done.stderr)


def uses(pattern: re.Pattern[str], text: str) -> dict[str, Use]:
    return {m[1]: Use(int(m["registers"]), int(m["stack"])) for m in pattern.finditer(text)}


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_no_spills(architecture, tmp_path):
    kernels = kernels_of("kd_loss.cu", architecture, tmp_path)
    # Four divergences, by warp and by block, with and without 16-byte accesses; float64; one more.
    # Three types of three divergences by block, and of two by part of a warp; of plain rows in
    # three ways.
    assert len(kernels) == 4 * 4 + 4 + 1 + 3 * (3 + 2) + 3 * 3
    for name, use in kernels.items():
        most = next(most for part, most in MOST_REGISTERS.items() if part in name)
        assert use.registers <= most, name
        assert use.stack <= (0 if "staged" not in name else 224 if "ELb1E" in name else 72), name


@pytest.mark.parametrize("architecture", [75, 80, 90, 100])
@pytest.mark.parametrize(("source", "count"), [("dist_loss.cu", 27), ("min_norm.cu", 15)])
def test_no_spills_in_the_other_losses(source, count, architecture, tmp_path):
    kernels = kernels_of(source, architecture, tmp_path)
    assert len(kernels) == count
    for name, use in kernels.items():
        assert use.stack <= 8, name
        # With 16-byte accesses two blocks of 256 threads are resident; names have Lb1 then.
        assert use.registers <= (128 if "IfLb1" in name else 255), name
