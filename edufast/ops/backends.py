"""Which implementation of an operator runs."""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops import _library  # noqa: F401 (the operators are asked for below)
from edufast.utils._torch_private import has_kernel

BACKENDS = ("reference", "cpp", "cuda", "triton")
_DEVICE_OF = {"cpp": "cpu", "cuda": "cuda"}
# What this installation has; all operators or none have it. torch.compile cannot trace this.
_BUILT = ["reference", "cpp"]
if has_kernel("edufast::kd_loss", "CUDA"):
    _BUILT.append("cuda")
if importlib.util.find_spec("triton"):
    _BUILT.append("triton")


class Choice(NamedTuple):
    """One line of the table below; the first that fits a tensor, and has been built, decides.

    Attributes:
        device: type of the tensor's device.
        backend: the fastest there.
        evidence: the measurement that says so.
    """

    device: str
    backend: str
    evidence: str


CHOICES = (
    Choice(
        "cpu",
        "cpp",
        "kd_loss is faster than eager in 81 and than torch.compile in 81 of 81 shapes: "
        "benchmarks/cpu/kd_loss.json",
    ),
    Choice(
        "cuda",
        "cuda",
        "a call took a quarter of Triton's time on the host; Triton's kernel is faster for many "
        "rows of up to 4096 classes: benchmarks/nvidia-h100-80gb-hbm3",
    ),
    Choice("cuda", "triton", "for builds without the CUDA backend"),
)


def select_backend(backend: str | None, tensor: Tensor) -> str:
    """The backend for ``tensor``: the argument, else ``EDUFAST_BACKEND``, else by :data:`CHOICES`.

    Args:
        backend: a name, or None.
        tensor: on the device where the operator is to run.

    Raises:
        ValueError: the name is unknown, or its backend does not run on the tensor's device.
        RuntimeError: torch.jit traces, which no backend survives.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "the operators cannot be traced by torch.jit; use torch.export or torch.compile"
        )
    name = backend if backend is not None else os.environ.get("EDUFAST_BACKEND") or None
    device = tensor.device.type
    if name is not None:
        if name not in BACKENDS:
            raise ValueError(
                f"backend is {name!r}; expected one of {', '.join(map(repr, BACKENDS))}"
            )
        if _DEVICE_OF.get(name, device) != device:
            raise ValueError(
                f"backend {name!r} runs on {_DEVICE_OF[name]}; the tensors are on {device}"
            )
        return name
    for choice in CHOICES:
        if choice.device == device and choice.backend in _BUILT:
            return choice.backend
    return "reference"


def available_backends(device: str) -> list[str]:
    """The fused backends that this installation has for a device."""
    if torch.device(device).type == "cpu":
        return ["cpp"]
    return [name for name in ("cuda", "triton") if name in _BUILT]
