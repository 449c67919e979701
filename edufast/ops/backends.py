"""Which implementation of an operator runs."""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple

import torch
from torch import Tensor

BACKENDS = ("reference", "cpp", "cuda", "triton")
_DEVICE_OF = {"cpp": "cpu", "cuda": "cuda"}


class Choice(NamedTuple):
    """One line of the table below; the first that fits a tensor decides.

    Attributes:
        device: type of the tensor's device.
        classes: largest number of classes the line speaks for; None: any.
        backend: the fastest there.
        evidence: the measurement that says so.
    """

    device: str
    classes: int | None
    backend: str
    evidence: str


CHOICES = (
    Choice("cpu", None, "cpp", "ahead of eager and torch.compile: benchmarks/cpu/kd_loss.json"),
    Choice("cuda", None, "cuda", "not measured yet: no GPU has run either kernel"),
)


def select_backend(backend: str | None, tensor: Tensor) -> str:
    """The backend for ``tensor``: the argument, else ``EDUFAST_BACKEND``, else by :data:`CHOICES`.

    Raises:
        ValueError: the name is unknown, or the backend does not run on the tensor's device.
    """
    name = backend or os.environ.get("EDUFAST_BACKEND") or None
    device = tensor.device.type
    if name is None:
        for choice in CHOICES:
            fits = choice.classes is None or tensor.shape[-1] <= choice.classes
            if choice.device == device and fits:
                return choice.backend
        return "reference"
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
