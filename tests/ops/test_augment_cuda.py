"""augment on CUDA: on a GPU if there is one, and emulated on the CPU everywhere.

The emulation has the device code behind the operator's checks, and blocks for three images.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from edufast.ops import augment
from edufast.ops.reference.augment import Augment
from tests.ops.augment_cases import assert_same_bits, cases, expected, random_case
from tests.ops.cuda_emulation.driver import load_operator
from tests.ops.devices import on_gpu

HERE = ("emulated", pytest.param("gpu", marks=on_gpu("augment")))


def on(p: Augment, device: str) -> Augment:
    return p._replace(**{n: getattr(p, n).to(device) for n in ("images", "index", "views")})


def made(p: Augment, where: str) -> Tensor:
    if where == "gpu":
        return torch.ops.edufast.augment(*on(p, "cuda")).cpu()
    load_operator("augment")
    found: Tensor = torch.ops.edufast_emulated.augment(*p)
    return found


@pytest.mark.parametrize("where", HERE)
@given(p=cases)
@settings(max_examples=100, deadline=None)
def test_cuda_gives_the_bits_of_the_reference(where: str, p: Augment) -> None:
    assert_same_bits(made(p, where), expected(p))


@pytest.mark.parametrize("where", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [17, 32])  # the elements of an image are odd, or a multiple of 8
def test_several_blocks_of_each_image(where: str, dtype: torch.dtype, width: int) -> None:
    p = random_case(height=35, width=width, batch=7, dtype=dtype)
    assert_same_bits(made(p, where), expected(p))


@on_gpu("augment")
def test_gpu_what_is_out_of_range_becomes_nan() -> None:
    p = on(random_case(batch=6), "cuda")
    p.index[1], p.index[2] = -1, 9
    p.views[3], p.views[4] = -1, 162
    whole = torch.ops.edufast.augment(*p).flatten(1)
    assert whole.isnan().all(1).tolist() == [False, True, True, True, True, False]
    assert not whole[[0, 5]].isnan().any()


@on_gpu("augment")
def test_gpu_offsets_beyond_two_to_the_31_bytes_and_elements() -> None:
    images = torch.zeros(2**31 // 3072 + 2, 32, 32, 3, dtype=torch.uint8, device="cuda")
    images[-1] = 255
    index = torch.full((2**32 // 3072 + 9,), len(images) - 1, device="cuda")
    views = torch.zeros_like(index)
    batch = augment(images, index, views, mean=(0,) * 3, std=(1 / 255,) * 3, dtype=torch.bfloat16)
    assert all(int((b == 255).sum()) == b.numel() for b in batch.split(1 << 16))  # little memory


@on_gpu("augment")
def test_gpu_never_waits() -> None:
    p = on(random_case(), "cuda")
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for backend in ("cuda", "reference"):
            augment(*p[:3], pad=p.pad, flip=p.flip, mean=p.mean, std=p.std, backend=backend)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@on_gpu("augment")
def test_gpu_graph() -> None:
    """Captured once, replayed on another index."""
    p = on(random_case(), "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.ops.edufast.augment(*p)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = torch.ops.edufast.augment(*p)
    other = random_case(seed=1)
    p.index.copy_(other.index)
    p.views.copy_(other.views)
    graph.replay()
    moved = p._replace(images=p.images.cpu(), index=other.index, views=other.views)
    assert_same_bits(batch.cpu(), expected(moved))
