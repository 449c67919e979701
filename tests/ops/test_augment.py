"""augment: every backend gives the bits of the reference."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from edufast.ops import augment
from edufast.ops.reference.augment import Augment, reference
from tests.ops.augment_cases import assert_same_bits, cases, expected, random_case
from tests.remote import Remote

BACKENDS = ("reference", "cpp")


def batch_of(p: Augment, **changes: Any) -> Tensor:
    """By the public function."""
    return augment(**p._asdict() | changes)


@pytest.mark.parametrize("threads", [1, 3])
@given(p=cases)
@settings(max_examples=200, deadline=None)
def test_cpp_gives_the_bits_of_the_reference(threads: int, p: Augment) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_bits(torch.ops.edufast.augment(*p), reference(*p))
    finally:
        torch.set_num_threads(before)


def test_many_images_on_several_threads() -> None:
    p = random_case(count=100, height=32, width=32, batch=300)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_same_bits(torch.ops.edufast.augment(*p), expected(p))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", ["baseline", "x86-64-v3"])
def test_every_instruction_set(isa: str) -> None:
    """The loops that this processor would not choose, in a process of their own."""
    if platform.machine() != "x86_64" and isa != "baseline":
        pytest.skip("x86-64 only")
    code = (
        "import edufast.ops, torch\n"
        "from tests.ops.augment_cases import *\n"
        "for dtype in DTYPES:\n"
        "    for width in (1, 16, 33):\n"
        "        p = random_case(width=width, dtype=dtype)\n"
        "        assert_same_bits(torch.ops.edufast.augment(*p), expected(p))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EDUFAST_CPU_ISA": isa, "OMP_NUM_THREADS": "2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_offsets_beyond_two_to_the_31_bytes() -> None:
    """Virtual memory of which one image is touched."""
    p = random_case(count=2, batch=4)
    images = torch.empty(2**31 // p.images[0].numel() + 2, *p.images.shape[1:], dtype=torch.uint8)
    last = len(images) - 1
    images[last] = p.images[1]
    far = p._replace(images=images, index=torch.full((4,), last))
    near = p._replace(index=torch.ones(4, dtype=torch.int64))
    assert_same_bits(torch.ops.edufast.augment(*far), expected(near))


# --- the public function --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_is_channels_last(backend: str | None, dtype: torch.dtype) -> None:
    p = random_case(dtype=dtype)
    made = batch_of(p, backend=backend)
    assert made.shape == (20, 3, 16, 16) and made.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(made.permute(0, 2, 3, 1), expected(p))


def test_without_pad_and_flip_images_are_normalised_only() -> None:
    images = torch.randint(256, (5, 4, 6, 3), dtype=torch.uint8)
    zeros = torch.zeros(5, dtype=torch.int64)
    made = augment(images, torch.arange(5), zeros, mean=(0,) * 3, std=(1 / 255,) * 3)
    assert torch.equal(made, images.permute(0, 3, 1, 2).float())


def test_index_and_views_may_have_strides() -> None:
    p = random_case()
    both = torch.stack([p.index, p.views], 1)
    made = batch_of(p, index=both[:, 0], views=both[:, 1])
    assert_same_bits(made, batch_of(p))


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_arguments_are_one_line(backend: str) -> None:
    for change, message in (
        ({"index": torch.full((20,), 9)}, r"index\[0\] is 9; expected 0 to 8"),
        ({"views": torch.full((20,), -1)}, r"views\[0\] is -1; expected 0 to 161"),
        ({"std": (1.0, 1.0)}, "std has 2 numbers; expected 3, like the channels of images"),
        ({"dtype": torch.float64}, "dtype is .*; expected float32, bfloat16 or float16"),
        ({"images": torch.zeros(2, 8, 8, 3)}, "images has shape .*; expected contiguous uint8"),
        ({"images": torch.zeros(0, 8, 8, 3, dtype=torch.uint8)}, "expected none without images"),
        ({"pad": 1.5}, "pad is 1.5; expected an integer"),
        ({"pad": 2**70}, "pad is 1180591620717411303424; expected at most 16383"),
        ({"mean": None}, "mean is None; expected a sequence of numbers"),
        ({"mean": ("a",) * 3}, "mean is 'a'; expected a finite number$"),
        ({"std": (10**5000,) * 3}, "std is an integer of 16610 bits; expected a finite number"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            batch_of(random_case(), **change, backend=backend)
        assert "\n" not in str(error.value)
    for change, message in (
        ({"flip": "no"}, "flip is of type str; expected bool"),
        ({"dtype": "float32"}, "dtype is 'float32'; expected a torch.dtype"),
    ):
        with pytest.raises(TypeError, match=message):
            batch_of(random_case(), **change, backend=backend)
    with pytest.raises(TypeError, match="index is of type list; expected a tensor"):
        batch_of(random_case(), index=[0, 1], backend=backend)
    with pytest.raises(ValueError, match="backend is 'numpy'; expected one of"):
        batch_of(random_case(), backend="numpy")


def test_the_reference_never_looks_at_what_is_on_a_device() -> None:
    p = random_case()
    held = {name: Remote(getattr(p, name)) for name in ("images", "index", "views")}
    made = batch_of(p, **held, backend="reference")
    assert isinstance(made, Remote)
    assert_same_bits(made.held, batch_of(p))


# --- torch ----------------------------------------------------------------------------------------


def test_opcheck() -> None:
    results = torch.library.opcheck(torch.ops.edufast.augment.default, tuple(random_case()))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_graph_breaks_also_with_numbers_that_change(backend: str) -> None:
    p = random_case()

    def step(p: Augment) -> Tensor:
        return batch_of(p, backend=backend) + 1

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for add in (0.0, 0.125, 0.25):
        p = p._replace(mean=[m + add for m in p.mean], std=[s + add for s in p.std])
        assert torch.equal(compiled(p), step(p))


def test_shapes_are_known_without_numbers() -> None:
    p = random_case(dtype=torch.bfloat16)
    meta = p._replace(**{n: getattr(p, n).to("meta") for n in ("images", "index", "views")})
    made = torch.ops.edufast.augment(*meta)
    assert made.shape == (20, 16, 16, 3) and made.dtype == torch.bfloat16
