"""merge_ on CUDA: its device code emulated on the CPU, behind the operator's checks and table."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edufast import _native
from edufast.ops.reference.merge import Merge, reference
from tests.ops.merge_cases import after, assert_same_bits, merges, poolings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def emulation() -> None:
    """Registers edufast_emulated::merge_; skips the tests where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ was not found: the CUDA kernels cannot be emulated")
    torch_dir = Path(torch.__file__).parent
    major, minor = map(int, _native.torch_target.split("."))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libmerge.so"
        subprocess.run(
            [
                compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-w",
                "-fPIC", "-shared", "-fvisibility=hidden",
                f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
                f"-I{ROOT / 'tests/ops/cuda_emulation'}", f"-I{ROOT / 'csrc'}",
                "-isystem", str(torch_dir / "include"),
                *(str(ROOT / name) for name in (
                    "tests/ops/cuda_emulation/merge.cpp", "csrc/merge.cpp",
                    "csrc/merge_arguments.cpp",
                )),
                str(torch_dir / "lib/libtorch_cpu.so"), "-o", str(library),
            ],
            check=True,
        )  # fmt: skip
        torch.ops.load_library(str(library))


def emulated(*arguments: object) -> None:
    torch.ops.edufast_emulated.merge_.default(*arguments)


@given(st.one_of(merges(), poolings()))
@settings(max_examples=200, deadline=None)
def test_cuda_gives_the_bits_of_the_reference(m: Merge) -> None:
    assert_same_bits(after(emulated, m), after(reference, m))


def test_more_tensors_than_a_table_holds() -> None:
    """The emulation's tables hold 32 entries of one list, and three blocks share all tiles."""
    targets = [torch.zeros(1 + 700 * (i % 40), dtype=torch.float32) for i in range(100)]
    sources = [torch.randn(t.shape, dtype=torch.float64).to(torch.bfloat16) for t in targets]
    m = Merge(targets, sources, [1.0], 0.0, [], [], [])
    assert_same_bits(after(emulated, m), [s.float() for s in sources])


def test_moments_at_the_end_of_a_table() -> None:
    """Their two entries are never torn apart: 31 tensors leave room for one entry."""
    singles = [torch.zeros(3) for _ in range(31)]
    pair = [torch.zeros(3), torch.zeros(3)]
    sources = [torch.full((3,), float(i)) for i in range(33)]
    moments = [0, 1, 2, 3]
    m = Merge(singles + pair, sources, [1.0], 0.0, [], moments, [])
    assert_same_bits(after(emulated, m), sources)
