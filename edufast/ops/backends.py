"""Which implementation of an operator runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.utils._torch_private import has_kernel

BACKENDS = ("reference", "cpp", "cuda", "triton")
_DEVICE_OF = {"cpp": "cpu", "cuda": "cuda"}


class Choice(NamedTuple):
    """One line of the table below; the first that fits a tensor and an operator decides.

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
    Choice("cuda", None, "triton", "for operators without a kernel in CUDA C++"),
)


def select_backend(backend: str | None, tensor: Tensor, has: Sequence[str] = BACKENDS) -> str:
    """The backend for ``tensor``: the argument, else ``EDUFAST_BACKEND``, else by :data:`CHOICES`.

    Args:
        backend: a name, or None.
        tensor: on the device where the operator is to run; its last dimension counts classes.
        has: the backends of the operator. What ``EDUFAST_BACKEND`` names beside them is passed
            over.

    Raises:
        ValueError: the name is unknown, the operator has no such backend, or it does not run on the
            tensor's device.
    """
    name = backend or os.environ.get("EDUFAST_BACKEND") or None
    device = tensor.device.type
    if name is not None:
        allowed = has if backend else BACKENDS
        if name not in allowed:
            raise ValueError(
                f"backend is {name!r}; expected one of {', '.join(map(repr, allowed))}"
            )
        if _DEVICE_OF.get(name, device) != device:
            raise ValueError(
                f"backend {name!r} runs on {_DEVICE_OF[name]}; the logits are on {device}"
            )
        if name in has:
            return name
    for choice in CHOICES:
        fits = choice.classes is None or tensor.shape[-1] <= choice.classes
        if choice.device == device and fits and choice.backend in has:
            installed = choice.backend != "triton" or importlib.util.find_spec("triton")
            return choice.backend if installed else "reference"
    return "reference"


def available_backends(device: str) -> list[str]:
    """The fused backends of ``kd_loss`` that this installation has for a device."""
    if torch.device(device).type == "cpu":
        return ["cpp"]
    names = []
    if has_kernel("edufast::kd_loss", "CUDA"):
        names.append("cuda")
    if importlib.util.find_spec("triton"):
        names.append("triton")
    return names
