"""merge_'s kernel as nvcc compiles it: wide loads, all under way at once, and little besides."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.ops.sass import Kernel, kernels_of

HELD = 16  # elements of a thread: kMergeHeld


@cache
def kernels(architecture: int) -> list[Kernel]:
    """With a small and a large table; compiled as CMakeLists.txt says."""
    with TemporaryDirectory() as folder:
        found = kernels_of("merge.cu", architecture, Path(folder), "-fmad=false")
    assert len(found) == 2
    return list(found.values())


@pytest.mark.parametrize("architecture", [80, 90])
def test_no_spills_and_three_blocks_a_processor(architecture: int) -> None:
    for kernel in kernels(architecture):
        assert kernel.spilled == 0 and 3 * 256 * kernel.registers <= 65536


def averaging(kernel: Kernel) -> list[tuple[int, list[str]]]:
    """For each type of source: 16-byte loads before the first use, and the instructions."""
    groups = [(n, kernel.block(i)) for i, n in kernel.groups("LDG.E.128")]
    return [(n, block) for n, block in groups if opcodes(block)["FMUL"]]


def opcodes(block: list[str]) -> Counter[str]:
    return Counter(instruction.split()[0].partition(".")[0] for instruction in block)


def test_32_bytes_or_more_of_a_thread_are_under_way() -> None:
    for kernel in kernels(90):
        found = sorted(loads for loads, _ in averaging(kernel))
        assert found == [2, 2, 4]  # bfloat16, float16, float32
        copies = [n for i, n in kernel.groups("LDG.E.128") if "STG" in opcodes(kernel.block(i))]
        assert copies == [4]


def test_types_are_not_looked_at_within_the_loop_over_elements() -> None:
    """A product and a sum for each element, at most a conversion, and no branch."""
    for kernel in kernels(90):
        for loads, block in averaging(kernel):
            found = opcodes(block)
            assert found["FMUL"] == found["FADD"] == HELD
            conversion = 0 if loads == 4 else 1.5  # of bfloat16: two for the upper of a pair
            assert len(block) <= loads + (2 + conversion) * HELD + 4


def test_there_is_no_fused_multiply_add() -> None:
    """Every backend gives the same bits."""
    for kernel in kernels(90):
        found = opcodes(kernel.instructions)
        assert found["FMUL"] and found["DMUL"]
        # (The division of integers, by which tiles are found, has some.)
        assert not found["DFMA"] and not found["FFMA"]
