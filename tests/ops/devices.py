"""Where the tests of a backend run: on a GPU if there is one, else interpreted or emulated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edufast.utils._torch_private import has_kernel

HAS_GPU = torch.cuda.is_available()
# tests/conftest.py has Triton interpret its kernels where there is no GPU.
TRITON = "cuda" if HAS_GPU else "cpu"


def on_gpu(operator: str) -> pytest.MarkDecorator:
    """Marks a test of the CUDA kernel of an operator."""
    return pytest.mark.skipif(
        not (HAS_GPU and has_kernel(f"edufast::{operator}", "CUDA")),
        reason="needs a GPU and a build with the CUDA backend",
    )


def on_triton() -> pytest.MarkDecorator:
    """Marks a test that runs Triton kernels."""
    from edufast.kernels._common import INTERPRETED

    return pytest.mark.skipif(
        not (HAS_GPU or INTERPRETED), reason="needs a GPU or TRITON_INTERPRET=1"
    )


def cuda_backends(operator: str) -> list[object]:
    """Parameters of the tests of an operator's CUDA kernels: emulated on the CPU, and on a GPU."""
    return ["emulated", pytest.param("cuda", marks=on_gpu(operator), id="gpu")]


def to_gpu(x: Tensor) -> Tensor:
    """A copy with the same strides, at the same offset from the beginning of its memory."""
    memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    return memory.cuda().as_strided(x.shape, x.stride(), x.storage_offset())
