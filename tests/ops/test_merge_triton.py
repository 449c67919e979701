"""merge_ in Triton: on a GPU, or interpreted on the CPU; and compiled without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")

from edufast.kernels.merge import merge_ as triton_merge_  # noqa: E402

from edufast.ops import merge_  # noqa: E402
from edufast.ops.reference.merge import Merge, reference  # noqa: E402
from tests.ops.devices import TRITON, on_triton  # noqa: E402
from tests.ops.merge_cases import after, merges, poolings  # noqa: E402

runs = on_triton()


@runs
@given(st.one_of(merges(), poolings()))
@settings(max_examples=25, deadline=None)
def test_triton_gives_the_bits_of_the_reference(m: Merge) -> None:
    for got, expected in zip(after(triton_merge_, m, TRITON), after(reference, m), strict=True):
        # Where a GPU rounds, the interpreter truncates.
        if got.dtype == torch.bfloat16 and TRITON == "cpu":
            torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-38)
        else:
            assert torch.equal(got, expected)


@runs
def test_triton_checks_like_the_others() -> None:
    with pytest.raises(ValueError, match=r"targets\[0\] has shape \(2\), but sources\[0\]\[0\]"):
        merge_([torch.zeros(2, device=TRITON)], [torch.zeros(3, device=TRITON)], backend="triton")


# Compiles what a launch compiles: prints PTX.
_COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from edufast.kernels.merge import TILE, WARPS, merge_kernel
capability, lists, kept = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
names = {"table": "*i64", "num_entries": "i32", "num_tiles": "i32"}
constants = {"N": lists, "KEPT": kept, "TILE": TILE}
signature = names | dict.fromkeys(constants, "constexpr")
source = ASTSource(fn=merge_kernel, signature=signature, constexprs=constants,
                   attrs={(0,): [["tt.divisibility", 16]]})
compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32),
                          options={"num_warps": WARPS, "enable_fp_fusion": False})
print(compiled.asm["ptx"])
"""


@pytest.mark.parametrize(
    ("capability", "lists", "kept"), [(80, 1, True), (90, 4, False), (100, 4, False)]
)
def test_compiles_without_spills(capability: int, lists: int, kept: bool) -> None:
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    ptxas = tools / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    if not ptxas.exists():
        pytest.skip("this Triton ships no ptxas")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    ptx = subprocess.run(
        [sys.executable, "-c", _COMPILE, str(capability), str(lists), str(kept)],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merge.ptx"
        path.write_text(ptx)
        target = re.search(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
        assert target is not None
        report = subprocess.run(
            [ptxas, "-v", f"-arch={target[1]}", path, "-o", Path(folder) / "merge.cubin"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    assert "0 bytes spill stores, 0 bytes spill loads" in report, report
    assert "fma.rn.f32" not in ptx and "fma.rn.f64" not in ptx
    assert re.search(r"ld\.global\S*\.v4\.b32", ptx)  # 16 bytes at a time
