"""The CUDA kernels as nvcc compiled them: registers for the planned threads, hardly a spill."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from edufast.bench.sass import tool
from edufast.ops._library import library

# 65,536 registers hold two blocks of 256 threads at 128 each; float64 is for checking only. The
# staged kernels' are in csrc/cuda/kd_loss_plan.h; what they keep of a row elsewhere is a few words,
# which an H100 showed to cost less than a quarter of the warps. Those of blocks for plain rows keep
# more, of the rows that are not. Those of lanes for plain rows have more registers: an H200 showed
# that what they would spill costs more than the warps are worth.
KERNEL = {"kd_loss.cu": "kd_loss", "dist_loss.cu": "dist_", "min_norm.cu": "gram"}  # in names
MOST_REGISTERS = {"kernelId": 255, "Li32ELi4": 168, "Li2E": 128, "staged": 80, "": 128}
MOST_STACK = {"Li0ELi4": 224, "Li32ELi4": 96, "staged": 72, "": 0}  # bytes
USE = re.compile(r"Function (\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+)")
LIBRARY = Path(library())


class Use(NamedTuple):
    """What a kernel takes. A stack of more than a word or two holds spilled registers."""

    registers: int
    stack: int  # bytes


@cache
def built(source: str) -> list[dict[str, Use]]:
    """The kernels of a file by mangled name, for each architecture that the library was built for:
    by `make` for two."""
    command = [tool("cuobjdump"), "-res-usage", LIBRARY]
    listing = subprocess.run(command, capture_output=True, text=True).stdout
    files = [
        {m[1]: Use(int(m["registers"]), int(m["stack"])) for m in USE.finditer(file)}
        for file in re.split(r"^arch = sm_\d+", listing, flags=re.MULTILINE)
    ]
    if not any(files):
        pytest.skip("the library was built without CUDA")
    return [file for file in files if any(KERNEL[source] in name for name in file)]


def test_no_spills():
    files = built("kd_loss.cu")
    assert files
    for kernels in files:
        # Four divergences, by warp and by block, with and without 16-byte accesses; float64; one
        # more. Three types of three divergences by block, and of two by part of a warp; of plain
        # rows in four ways.
        assert len(kernels) == 4 * 4 + 4 + 1 + 3 * (3 + 2) + 3 * 4
        for name, use in kernels.items():
            most = next(most for part, most in MOST_REGISTERS.items() if part in name)
            assert use.registers <= most, name
            most = next(most for part, most in MOST_STACK.items() if part in name)
            assert use.stack <= most, name


@pytest.mark.parametrize(("source", "count"), [("dist_loss.cu", 27), ("min_norm.cu", 15)])
def test_no_spills_in_the_other_losses(source, count):
    files = built(source)
    assert files
    for kernels in files:
        assert len(kernels) == count
        for name, use in kernels.items():
            assert use.stack <= 8, name
            # With 16-byte accesses two blocks of 256 threads are resident; names have Lb1 then.
            assert use.registers <= (128 if "IfLb1" in name else 255), name
