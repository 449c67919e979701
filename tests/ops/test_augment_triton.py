"""augment in Triton: on a GPU, or interpreted on the CPU; and compiled without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

pytest.importorskip("triton")

from edufast.kernels.augment import augment as augment_triton

from edufast.ops import augment
from edufast.ops.reference.augment import Augment
from tests.ops.augment_cases import assert_same_bits, cases, expected, random_case
from tests.ops.devices import HAS_GPU, TRITON, on_triton

NAMES = ("images", "index", "views")
runs = on_triton()


def there(p: Augment) -> Augment:
    return p._replace(**{name: getattr(p, name).to(TRITON) for name in NAMES})


def assert_right(p: Augment) -> None:
    made = augment_triton(*there(p)).cpu()
    if p.dtype == torch.bfloat16 and not HAS_GPU:  # where a GPU rounds, the interpreter truncates
        torch.testing.assert_close(made, expected(p), rtol=2**-7, atol=1e-38)
    else:
        assert_same_bits(made, expected(p))


@runs
@given(p=cases)
@settings(max_examples=40, deadline=None)
def test_triton_gives_the_bits_of_the_reference(p: Augment) -> None:
    assert_right(p)


@runs
def test_triton_makes_an_image_by_several_programs() -> None:
    assert_right(random_case(height=35, width=17, batch=5))


@runs
def test_triton_is_a_backend_that_checks_like_the_others() -> None:
    p = there(random_case())
    assert_same_bits(
        augment(**p._asdict(), backend="triton"), augment(**p._asdict(), backend="reference")
    )
    with pytest.raises(ValueError, match="std has 2 numbers; expected 3"):
        augment(**p._asdict() | {"std": (1.0, 1.0)}, backend="triton")


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
def test_triton_what_is_out_of_range_becomes_nan() -> None:
    p = there(random_case(batch=6))
    p.index[1], p.index[2] = -1, 9
    p.views[3], p.views[4] = -1, 162
    whole = augment_triton(*p).flatten(1)
    assert whole.isnan().all(1).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_triton_compiles_without_spills(capability: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.ops.compile_offline", str(capability), "augment", "3"]
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("LOCAL:0 " in line for line in lines), lines
