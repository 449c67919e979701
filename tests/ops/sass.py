"""What the GPU will execute: machine code of a CUDA source, and what its kernels take."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import pytest

from edufast.bench.sass import tool
from edufast.utils.errors import UserError

ROOT = Path(__file__).parents[2]
_REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(?P<instruction>[^;]+?)\s*;", re.M)


@dataclass
class Kernel:
    """``instructions`` are in the order of their addresses, without predicates."""

    registers: int
    spilled: int
    instructions: list[str] = field(default_factory=list)

    def groups(self, opcode: str) -> list[tuple[int, int]]:
        """Where instructions of this opcode come one after another: first position and number."""
        found: list[tuple[int, int]] = []
        for i, instruction in enumerate(self.instructions):
            if not instruction.startswith(opcode + " "):
                continue
            if found and sum(found[-1]) == i:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((i, 1))
        return found

    def block(self, position: int) -> list[str]:
        """Instructions from ``position`` to the next branch."""
        rest = self.instructions[position:]
        return list(takewhile(lambda x: not x.startswith(("BRA", "EXIT", "RET")), rest))


def kernels_of(source: str, architecture: int, folder: Path, *options: str) -> dict[str, Kernel]:
    """The kernels of ``csrc/cuda/<source>``, compiled for sm_``architecture``, by mangled name."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    try:
        cuobjdump = tool("cuobjdump")
    except UserError as error:
        pytest.skip(str(error))
    cubin = folder / "kernels.cubin"
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    command = [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-DEDUFAST_HAS_CUDA", target]
    command += [*options, "-Xptxas=-v", "-cubin", str(ROOT / "csrc/cuda" / source), "-o", cubin]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {
        m["name"]: Kernel(int(m["registers"]), int(m["stack"]) + int(m["stores"]) + int(m["loads"]))
        for m in _REPORT.finditer(done.stderr)
    }
    code = subprocess.run([cuobjdump, "-sass", cubin], capture_output=True, text=True, check=True)
    for part in code.stdout.split("Function : ")[1:]:
        name, _, text = part.partition("\n")
        found[name.strip()].instructions = [m["instruction"] for m in _LINE.finditer(text)]
    return found
