"""min_norm_weights in Triton: on a GPU, or interpreted on the CPU; and compiled without a GPU."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from edufast.kernels import min_norm  # noqa: E402

from edufast.ops import min_norm_weights  # noqa: E402
from edufast.ops.reference.min_norm import reference_gram  # noqa: E402
from tests.ops import gram_cases  # noqa: E402
from tests.ops.devices import TRITON, on_triton  # noqa: E402
from tests.ops.gram_cases import Case, assert_optimal, problem  # noqa: E402

runs = on_triton()
# The interpreter computes what a GPU masks.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def inputs(case):
    return gram_cases.inputs(case, TRITON)


@runs
@pytest.mark.parametrize(
    "case",
    [
        Case(rows=1, classes=3, teachers=2),
        Case(
            rows=7, classes=100, teachers=5, slices="lists", temperature=(1.0, 2.0, 3.0, 4.0, 0.5)
        ),
        Case(rows=5, classes=1030, dtype=torch.bfloat16, slices="overlapping"),
        Case(rows=6, classes=70, teachers=4, slices="disjoint", teacher_dtypes=(torch.float16,)),
        Case(rows=1, classes=20, teachers=9),
    ],
    ids=str,
)
def test_gram_and_weights(case, monkeypatch):
    monkeypatch.setattr(min_norm, "_PROGRAMS", 3)  # fewer than rows, so that programs take several
    z, teachers, arguments = inputs(case)
    exact = reference_gram(problem(z.double(), [t.double() for t in teachers], **arguments))
    gram = min_norm.gradient_gram(*problem(z, teachers, **arguments))
    torch.testing.assert_close(gram, exact, rtol=1e-5, atol=1e-6 * exact.max().item())
    for cap in (1.0, 1.5 / case.teachers):
        assert_optimal(exact, min_norm.min_norm_weights(gram, cap), cap, 1e-5)


@runs
def test_masks_and_nan():
    z, teachers, _ = inputs(Case())
    z[2], teachers[1][3], teachers[0][4, 5:] = -math.inf, -math.inf, -math.inf
    p = problem(z, teachers, None, 4.0)
    torch.testing.assert_close(min_norm.gradient_gram(*p), reference_gram(p), rtol=1e-5, atol=1e-5)
    teachers[2][0, 0] = math.nan
    for cap in (None, 0.5):
        assert min_norm_weights(z, teachers, cap=cap, backend="triton").isnan().all()


@runs
def test_degenerate_problems():
    z, teachers, _ = inputs(Case())
    third = torch.full((3,), 1 / 3, device=TRITON)
    for rows in (0, 2):
        same = [z[:rows]] * 3
        torch.testing.assert_close(min_norm_weights(z[:rows], same, backend="triton"), third)
    assert min_norm_weights(z, [teachers[0], z], backend="triton").tolist() == [0.0, 1.0]


@runs
def test_opcheck_and_float64():
    z, teachers, arguments = inputs(Case(rows=2, slices="lists"))
    p = tuple(problem(z, teachers, **arguments))
    gram = min_norm.gradient_gram(*p)
    for operator, operands in (
        (min_norm.gradient_gram, p),
        (min_norm.min_norm_weights, (gram, 0.5)),
    ):
        assert set(torch.library.opcheck(operator, operands).values()) == {"SUCCESS"}
    with pytest.raises(TypeError, match=r"teachers\[1\] is torch.float64; backend 'triton' takes"):
        min_norm_weights(z, [z, z.double()], backend="triton")


@pytest.mark.parametrize(("capability", "teachers"), [(80, 4), (90, 32)])
def test_compiles_without_spills(capability, teachers):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    arguments = [str(capability), "min_norm", str(teachers)]
    command = [sys.executable, "-m", "tests.ops.compile_offline", *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("STACK:0 " in line and "LOCAL:0 " in line for line in lines), done.stdout
