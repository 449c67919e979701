"""The kernels in Triton compile under the oldest version that goes with a torch that we support.

It is not installed beside the pinned one: ``make triton-oldest`` puts it into a folder of its own
and runs this file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDEST = "3.6"  # of torch 2.11
FOLDER = ROOT / "build" / f"triton-{OLDEST}"

pytestmark = pytest.mark.skipif(
    not (FOLDER / "triton").exists(), reason=f"needs Triton {OLDEST}: make triton-oldest"
)


def python(cache: Path, *arguments: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(FOLDER), "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_is_the_one_that_compiles(tmp_path: Path) -> None:
    version = python(tmp_path, "-c", "import triton; print(triton.__version__)")
    assert version.startswith(f"{OLDEST}.")


@pytest.mark.parametrize(
    ("operator", "size", "launches"),
    [
        ("kd_loss", 3, 13),
        ("kd_loss_tests", 0, 38),
        ("kd_loss_tests", 1, 63),
        ("dist_loss", 1000, 4),
        ("min_norm", 4, 2),
        ("merge", 2, 2),
        ("augment", 3, 2),
    ],
)
@pytest.mark.parametrize("capability", [80, 90])
def test_every_operator_compiles_without_spills(
    operator: str, size: int, launches: int, capability: int, tmp_path: Path
) -> None:
    compiled = python(
        tmp_path, "-m", "tests.ops.compile_offline", str(capability), operator, str(size)
    ).splitlines()
    main = [line for line in compiled if not re.match("_(count|position)_kernel ", line)]
    assert len(main) == launches
    assert all("LOCAL:0 " in line for line in main), compiled
