"""augment's kernels as nvcc compiles them: all loads of a thread under way at once, wide stores."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.ops.sass import Kernel, kernels_of

HELD = 8  # elements of a thread: kAugmentHeld


@cache
def kernels(architecture: int) -> dict[str, Kernel]:
    """Three types of one to four channels; compiled as CMakeLists.txt says."""
    with TemporaryDirectory() as folder:
        found = kernels_of("augment.cu", architecture, Path(folder), "-fmad=false")
    assert len(found) == 12
    return found


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_no_spills_and_half_of_the_threads_a_processor_holds(architecture: int) -> None:
    for kernel in kernels(architecture).values():
        assert kernel.spilled == 0 and 1024 * kernel.registers <= 65536


def test_all_bytes_of_a_thread_are_loaded_before_the_first_is_used() -> None:
    for kernel in kernels(90).values():
        opcodes = [instruction.split()[0] for instruction in kernel.instructions]
        loads = [i for i, opcode in enumerate(opcodes) if opcode == "LDG.E.U8"]
        assert len(loads) == HELD
        between = opcodes[loads[0] : loads[-1]]
        assert not any(opcode.startswith(("I2F", "FADD", "FMUL", "STG")) for opcode in between)


def test_whole_vectors_are_stored_and_nothing_is_fused() -> None:
    for name, kernel in kernels(90).items():
        opcodes = [instruction.split()[0] for instruction in kernel.instructions]
        assert opcodes.count("STG.E.128") == (2 if "kernelIf" in name else 1)
        assert not any(opcode.startswith(("FFMA", "HFMA2.B")) for opcode in opcodes)
