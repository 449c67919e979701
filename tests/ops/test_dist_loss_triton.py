"""dist_loss in Triton: on a GPU, or interpreted on the CPU; and compiled without a GPU."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from edufast.kernels.dist_loss import row_tile  # noqa: E402

from tests.ops import dist_cases  # noqa: E402
from tests.ops.devices import TRITON, on_triton  # noqa: E402
from tests.ops.dist_cases import Case, assert_accurate, evaluate  # noqa: E402

runs = on_triton()
# The interpreter computes what a GPU masks.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def inputs(case):
    return dist_cases.inputs(case, TRITON)


# Rows around the tile of 32, columns around 64; a row of one tile and of several.
@runs
@pytest.mark.parametrize(
    "case",
    [
        Case(rows=1, classes=1),
        Case(rows=2, classes=7),
        Case(rows=33, classes=64, temperature=3.0, beta=2.5, gamma=0.5),
        Case(rows=40, classes=65, dtype=torch.bfloat16, teacher_dtype=torch.float32),
        Case(rows=9, classes=1000, dtype=torch.float16, scale=10.0),
        Case(rows=3, classes=2049),
    ],
    ids=str,
)
def test_accuracy(case):
    assert_accurate(case, "triton", TRITON)


@runs
def test_several_chunks_of_rows(monkeypatch):
    from edufast.kernels import dist_loss

    monkeypatch.setattr(dist_loss, "_PROGRAMS", 3)  # 130 rows make three chunks, the last shorter
    assert_accurate(Case(rows=130, classes=20), "triton", TRITON)


@runs
def test_constants_masks_and_nan():
    z, t = inputs(Case(rows=34, classes=70))
    loss, grad = evaluate(torch.full_like(z, 0.1), t, "triton", Case())
    assert loss.item() == 2.0 and not grad.any()
    z[2], t[3, 5:], t[4] = -math.inf, -math.inf, -math.inf
    loss, grad = evaluate(z, t, "triton", Case())
    expected, expected_grad = evaluate(z, t, "reference", Case())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-7)
    for bad in (math.nan, math.inf):
        t[20, 30] = bad
        assert evaluate(z, t, "triton", Case())[0].isnan()
    assert evaluate(z[:0], t[:0], "triton", Case())[0].item() == 0


@runs
def test_any_strides():
    z, t = inputs(Case(rows=34, classes=70))
    expected = evaluate(z, t, "triton", Case())
    wide = z.new_zeros(34, 151)[:, 5:145:2].copy_(z)
    torch.testing.assert_close(evaluate(wide, t.T.contiguous().T, "triton", Case()), expected)


@runs
def test_opcheck():
    z, t = inputs(Case(rows=3, classes=5))
    operator = torch.ops.edufast.dist_loss_triton.default
    results = torch.library.opcheck(operator, (z.requires_grad_(), t, 2.0, 1.0, 0.5))
    assert set(results.values()) == {"SUCCESS"}


@runs
def test_float64_is_refused():
    z, t = inputs(Case(dtype=torch.float64))
    with pytest.raises(TypeError, match=r"student is torch.float64; backend 'triton' takes"):
        evaluate(z, t, "triton", Case())


def test_tiles_hold_eight_values_a_thread():
    for classes in (1, 10, 100, 256, 1000, 2048, 100000):
        tile = row_tile(classes)
        assert tile["ROWS"] * tile["CLASSES"] <= 256 * tile["num_warps"]
        assert tile["CLASSES"] >= min(classes, 2048)


@pytest.mark.parametrize(("capability", "classes"), [(80, 32768), (90, 10), (90, 1000)])
def test_compiles_without_spills(capability, classes):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    arguments = [str(capability), "dist_loss", str(classes)]
    command = [sys.executable, "-m", "tests.ops.compile_offline", *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    wide = {line.split()[0]: int(line.rpartition(":")[2]) for line in lines}
    if classes == 1000:  # each row of either once, 16 bytes at a time, though 16 divides no row
        assert wide["_rows_kernel"] == 2 and min(wide["_columns_kernel"], wide["_gradient_kernel"])
    assert all("STACK:0 " in line and "LOCAL:0 " in line for line in lines), done.stdout
