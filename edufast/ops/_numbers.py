"""Numbers that may change from call to call, such as a temperature: floats or tensors.

An operator takes them as floats or, instead, as its argument ``numbers``, one float64 tensor that
holds them all. In a compiled graph a float is a constant: the graph is compiled again for every
value, and torch (2.14) may keep the old value of a float that is computed from others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from edufast.utils._torch_private import is_constant

Number: TypeAlias = "float | Tensor"

# --- ranges: of floats, and of tensors without reading their values -----------------------------

# The bounds are literals: torch.compile would take a global float for a number that may change.
# Those of csrc/checks.h.


def is_temperature(x: Number) -> bool | Tensor:
    """T, 1 / T and their squares are then normal float32 numbers."""
    return (x >= 1e-18) & (x <= 1e18)


def is_weight(x: Number) -> bool | Tensor:
    """Of a term of a loss; the bound leaves float32 room for products."""
    return (x >= 0) & (x <= 1e18)


def is_share(x: Number) -> bool | Tensor:
    """Of one of two terms of a loss."""
    return (x >= 0) & (x <= 1)


def is_smoothing(x: Number) -> bool | Tensor:
    """The share that the label gives up of its probability: not all of it."""
    return (x >= 0) & (x < 1)


def is_beta(x: Number) -> bool | Tensor:
    """The teacher's share of a mixture; both sides have one."""
    return (x >= 1e-18) & (x < 1)


def fits(x: Number, is_right: Callable[[Number], bool | Tensor]) -> bool:
    """Whether a float is in range; tensors are not read."""
    return isinstance(x, Tensor) or bool(is_right(x))


# --- from what users pass to what operators take ------------------------------------------------


def number(name: str, value: Number, student: Tensor) -> Number:
    """A float, or a tensor without dimensions on the CPU or on the student's device.

    Raises:
        ValueError, TypeError: it is neither; the message names the argument.
    """
    if torch.compiler.is_compiling() and isinstance(value, (np.generic, np.ndarray)):
        # torch.compile treats it as a tensor; as a float it would be read.
        value = torch.as_tensor(value)
    if not isinstance(value, Tensor):
        return _float(name, value)
    if value.dim() or value.is_complex():
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}; expected a number or "
            "a real tensor without dimensions"
        )
    if value.requires_grad:
        raise ValueError(f"{name} requires a gradient; expected a constant, as by detach()")
    check_near(name, value, student)
    return value


def _float(name: str, value: Any) -> float:
    try:
        if type(value) is float:
            return value
        if not isinstance(value, bool):
            return float(value + 0)  # also NumPy's; text fails
    except OverflowError:  # an int; printing it might take thousands of digits
        raise ValueError(f"{name} is beyond 1e308; expected a smaller number") from None
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name} is {value!r}; expected a number or a tensor")


def one_for_each_teacher(
    temperature: Number | Sequence[Number], teachers: int, student: Tensor
) -> list[Number]:
    """K temperatures from one, or from K of them."""
    if isinstance(temperature, Tensor) and temperature.dim() == 1:
        temperature = temperature.unbind()
    if isinstance(temperature, (int, float, str, Tensor)) or not _is_several(temperature):
        temperatures, copies = [number("temperature", temperature, student)], teachers  # type: ignore[arg-type]
    else:
        temperatures, copies = [number("temperature", t, student) for t in temperature], 1
    right = all(fits(t, is_temperature) for t in temperatures)
    temperatures *= copies
    if len(temperatures) != teachers or not right:
        raise ValueError(
            f"temperature is {temperature}; expected one number from 1e-18 to 1e18, or {teachers} "
            "of them"
        )
    return temperatures


def _is_several(x: object) -> bool:
    """NumPy has numbers that look like sequences, but have no dimensions."""
    return isinstance(x, Iterable) and getattr(x, "ndim", 1) > 0


def packed(numbers: Sequence[Number], student: Tensor) -> Tensor | None:
    """The operator's argument ``numbers``; None if floats do as well, at less cost.

    If one is on a device, all are sent there, so that nothing waits for it.
    """
    tensors = [x for x in numbers if isinstance(x, Tensor)]
    if tensors:
        device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
    elif torch.compiler.is_compiling() and not all(_stays(x) for x in numbers):
        device = student.device
    else:
        return None
    # A product with a tensor makes a changing float an input of the graph.
    one = torch.ones((), dtype=torch.float64, device=device)
    with torch.no_grad():
        return torch.stack(
            [x.to(one, non_blocking=True) if isinstance(x, Tensor) else one * x for x in numbers]
        )


def _stays(x: Number) -> bool:
    """Whether a float is a constant of the graph, such as 0, which gets a graph of its own.

    (With dynamic=True torch assumes that an argument's default, no smoothing, may change.)
    """
    return bool(x == 0) or is_constant(x)


# --- what operators take ------------------------------------------------------------------------


def check_near(name: str, x: Tensor, other: Tensor, like: str = "student") -> None:
    """On the CPU, where the operator reads it, or where the kernel does."""
    if x.device.type != "cpu" and x.device != other.device:
        raise ValueError(f"{name} is on {x.device}; expected cpu or {other.device}, like {like}")


def check_numbers(
    numbers: Tensor, count: int, other: Tensor, alone: bool, like: str = "student"
) -> None:
    """Float64 (count,), beside which there is none of the floats that it replaces."""
    if numbers.dim() != 1 or numbers.shape[0] != count or numbers.dtype != torch.float64:
        raise ValueError(
            f"numbers has shape {tuple(numbers.shape)} and dtype {numbers.dtype}; expected "
            f"({count},) and torch.float64"
        )
    if not numbers.is_contiguous():
        raise ValueError(f"numbers has stride {numbers.stride(0)}; expected a contiguous tensor")
    check_near("numbers", numbers, other, like)
    if not alone:
        raise ValueError("numbers is given; expected no floats beside it")
