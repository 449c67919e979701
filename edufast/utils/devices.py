"""Devices that EduFast computes on."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from edufast.utils.errors import UserError


def check_device(device: torch.device | str, what: str = "device") -> None:
    """Check that ``device`` is the CPU or a GPU that torch finds here.

    Args:
        device: its name.
        what: the argument, option or key that has this value.

    Raises:
        UserError: torch may know devices of this kind, but it is neither.
    """
    name = str(device)
    match = re.fullmatch("cpu|cuda(?::([0-9]{1,3}))?", name)
    if not match:
        raise UserError(f"{what} is {name!r}; expected cpu, cuda or cuda:N")
    if name == "cpu":
        return
    if not torch.cuda.is_available():
        raise UserError(f"{what} is {name!r}, but torch finds no CUDA device here")
    last = torch.cuda.device_count() - 1
    if int(match[1] or 0) > last:
        raise UserError(f"{what} is {name!r}; expected cuda:0 to cuda:{last}")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor``, which is on the CPU, on ``device``; the host does not wait for a GPU.

    From pageable memory CUDA would copy only after everything that it was given before.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
