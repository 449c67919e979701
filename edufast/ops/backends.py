"""Which implementation of an operator runs."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

BACKENDS = ("reference", "cpp", "cuda", "triton")
_DEVICE_OF = {"cpp": "cpu", "cuda": "cuda"}


def select_backend(backend: str | None, tensor: Tensor) -> str:
    """The backend for ``tensor``: the argument, else ``EDUFAST_BACKEND``, else the device's best.

    Raises:
        ValueError: the name is unknown, or the backend does not run on the tensor's device.
    """
    name = backend or os.environ.get("EDUFAST_BACKEND") or None
    device = tensor.device.type
    if name is None:
        return {"cpu": "cpp", "cuda": "cuda"}.get(device, "reference")
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    if _DEVICE_OF.get(name, device) != device:
        raise ValueError(f"backend {name!r} runs on {_DEVICE_OF[name]}; the logits are on {device}")
    return name


def available_backends(device: str) -> list[str]:
    """The fused backends that this installation has for a device."""
    if torch.device(device).type == "cpu":
        return ["cpp"]
    names = []
    if torch._C._dispatch_has_kernel_for_dispatch_key("edufast::kd_loss", "CUDA"):
        names.append("cuda")
    if importlib.util.find_spec("triton"):
        names.append("triton")
    return names
