"""Backends of the operators that have no kernel in CUDA C++: on a GPU they run in Triton."""

from __future__ import annotations

import importlib.util

from torch import Tensor

from edufast.ops.backends import select_backend


def select_backend_without_cuda(backend: str | None, tensor: Tensor) -> str:
    """As ``select_backend``; on CUDA "triton", or "reference" where Triton is not installed.

    Raises:
        ValueError: as ``select_backend``, and for the backend "cuda".
    """
    if backend == "cuda":
        raise ValueError(
            "backend is 'cuda'; expected 'reference', 'cpp' or 'triton': this operator has no "
            "other kernel on CUDA"
        )
    name = select_backend(backend, tensor)
    if name != "cuda":
        return name
    return "triton" if importlib.util.find_spec("triton") else "reference"
