"""Validation shared by several operators; checks of a single operator are in its own module.

Messages name the argument, the value found and the value expected. The bounds are those of the
operators in C++ (csrc/checks.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edufast.ops._numbers import Number, fits, is_temperature, is_weight
from edufast.ops.slices import ClassSlices, Slice
from edufast.utils._torch_private import values_are_at_hand

MAX_TEACHERS = 32

# --- from what users type to what operators take ------------------------------------------------


def tensor(name: str, value: Any) -> Tensor:
    """A dense tensor, the only kind that operators take."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is of type {type(value).__name__}; expected a tensor")
    if not is_dense(value):
        kind = "is nested" if value.is_nested else "is quantized" if value.is_quantized else ""
        kind = kind or f"has layout {value.layout}"
        raise TypeError(f"{name} {kind}; expected a dense tensor")
    return value


def is_dense(x: Tensor) -> bool:
    """Whether strides describe where the numbers lie in memory."""
    return x.layout == torch.strided and not (x.is_nested or x.is_quantized)


def tensors(name: str, values: Any) -> list[Tensor]:
    """A list of dense tensors, from any iterable."""
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is of type {type(values).__name__}; expected a list of tensors")
    found = list(values)
    for k, value in enumerate(found):
        if not isinstance(value, Tensor) or not is_dense(value):
            tensor(f"{name}[{k}]", value)  # raises with the name, which is costly to make
    return found


def teachers_of(student: Tensor, teachers: Any) -> list[Tensor]:
    """The teachers' logits as a list; a tensor with the student's number of dimensions is one of
    them."""
    if isinstance(teachers, Tensor) and teachers.dim() == student.dim():
        teachers = [teachers]
    return tensors("teachers", teachers)


def rows_of(name: str, x: Tensor, leading: torch.Size) -> Tensor:
    """``x`` (..., n) as (B, n); ``leading`` is the shape that the dots stand for."""
    if not x.dim():
        raise ValueError(f"{name} has no dimensions; expected the last to count classes")
    if x.shape[:-1] != leading:
        shape = "".join(f"{size}, " for size in leading)
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected ({shape}n) like student")
    return x.flatten(0, -2) if len(leading) else x[None]


def choice(name: str, value: Any, choices: Mapping[str, int]) -> int:
    """The number that the operators' schemas give to a name."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")
    return choices[value]


def class_slices(
    slices: Sequence[Slice] | ClassSlices | None, student: Tensor, teachers: Sequence[Tensor]
) -> ClassSlices:
    """One slice for each teacher; None: every teacher knows all classes.

    Only the teachers' numbers of classes are checked here; the rest is left to the checks below.
    """
    check_student(student)
    classes = student.shape[1]
    if slices is None:
        slices = ClassSlices((0,) * len(teachers), (), (classes,) * len(teachers))
    elif not isinstance(slices, ClassSlices):
        if not isinstance(slices, Iterable):
            raise TypeError(f"slices is {slices!r}; expected a list of slices, or None")
        slices = ClassSlices.of(slices, classes, student.device)
    sizes = tuple(t.shape[-1] if t.dim() else 0 for t in teachers)
    # Sizes one by one: while tracing they are symbols, and a tuple of them cannot be compared.
    if len(slices.sizes) != len(sizes) or any(
        a != b for a, b in zip(sizes, slices.sizes, strict=True)
    ):
        raise ValueError(
            f"teachers have {sizes} classes, but slices name {slices.sizes}; expected one slice "
            "for each teacher, with as many classes as it has logits"
        )
    return slices


# --- what operators take ------------------------------------------------------------------------


def check_student(student: Tensor) -> None:
    """Logits (B, C) of a float type; the kernels count at most 2^30 classes, in 32 bits."""
    if student.dim() != 2 or not 1 <= student.shape[1] <= 2**30:
        raise ValueError(
            f"student has shape {tuple(student.shape)}; expected (B, C) with 1 <= C <= 2^30"
        )
    check_float("student", student)


def check_teachers(student: Tensor, teachers: Sequence[Tensor]) -> None:
    """1 to 32 logits (B, C_k) on the student's device; their float types may differ."""
    if not 1 <= len(teachers) <= MAX_TEACHERS:
        raise ValueError(f"teachers has {len(teachers)} tensors; expected 1 to {MAX_TEACHERS}")
    rows, classes = student.shape
    for k, t in enumerate(teachers):
        if t.dim() != 2 or t.shape[0] != rows or not 1 <= t.shape[1] <= classes:
            raise ValueError(
                f"teachers[{k}] has shape {tuple(t.shape)}; expected ({rows}, C_k) like student, "
                f"with 1 <= C_k <= {classes}"
            )
        check_float(f"teachers[{k}]", t)
        check_device(f"teachers[{k}]", t, student)


def check_slices(
    student: Tensor, teachers: Sequence[Tensor], columns: Sequence[Tensor], starts: Sequence[int]
) -> None:
    """Slices as the operators take them: see :class:`edufast.ops.ClassSlices`.

    Classes in a list are not looked at: they may be on a device.
    """
    if len(starts) != len(teachers):
        raise ValueError(
            f"starts has {len(starts)} numbers; expected {len(teachers)}, like teachers"
        )
    if len(columns) not in (0, len(teachers)):
        raise ValueError(
            f"columns has {len(columns)} tensors; expected {len(teachers)}, like teachers, or none"
        )
    classes = student.shape[1]
    for k, t in enumerate(teachers):
        last = classes - t.shape[1]
        if columns:
            listed = columns[k].numel() > 0
            _check_columns(f"columns[{k}]", columns[k], t.shape[1] if listed else 0, student)
            last = 0 if listed else last
        if not 0 <= starts[k] <= last:
            raise ValueError(
                f"starts[{k}] is {starts[k]}; expected 0 to {last} for {t.shape[1]} of {classes} "
                "classes"
            )


def _check_columns(name: str, columns: Tensor, size: int, student: Tensor) -> None:
    if columns.dim() != 1 or columns.shape[0] != size or columns.dtype != torch.int64:
        raise ValueError(
            f"{name} has shape {tuple(columns.shape)} and dtype {columns.dtype}; expected "
            f"({size},) and torch.int64"
        )
    if not columns.is_contiguous():
        raise ValueError(f"{name} has stride {columns.stride(0)}; expected a contiguous tensor")
    check_device(name, columns, student)


def check_labels(labels: Tensor, student: Tensor) -> None:
    """(B,) int64 on the student's device."""
    rows = student.shape[0]
    if labels.dim() != 1 or labels.shape[0] != rows or labels.dtype != torch.int64:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; expected ({rows},) "
            "and torch.int64"
        )
    check_device("labels", labels, student)


def check_given_weights(name: str, weights: Tensor, student: Tensor, teachers: int) -> None:
    """(K,) or (B, K) on the student's device."""
    rows = student.shape[0]
    one_each = weights.dim() == 1 and weights.shape[0] == teachers
    row_each = weights.dim() == 2 and weights.shape[0] == rows and weights.shape[1] == teachers
    if not (one_each or row_each):
        raise ValueError(
            f"{name} has shape {tuple(weights.shape)}; expected ({teachers},) or "
            f"({rows}, {teachers})"
        )
    check_device(name, weights, student)


def moved(name: str, x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``; a meta tensor has nothing that could be moved."""
    if x.device != device and x.is_meta:
        raise ValueError(f"{name} is on meta; expected {device}, like student")
    return x.to(device)


def check_float(name: str, x: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected float32, bfloat16, float16 or float64"
        )


def check_device(name: str, x: Tensor, student: Tensor) -> None:
    """A kernel must not be given memory of another device, nor a meta tensor, which has none."""
    if x.device != student.device:
        raise ValueError(f"{name} is on {x.device}; expected {student.device}, like student")


def check_temperature(name: str, temperature: Number) -> None:
    if not fits(temperature, is_temperature):
        raise ValueError(f"{name} is {temperature}; expected a number from 1e-18 to 1e18")


def check_temperatures(temperatures: Sequence[Number], teachers: int) -> None:
    if len(temperatures) != teachers:
        raise ValueError(
            f"temperatures has {len(temperatures)} numbers; expected {teachers}, like teachers"
        )
    for k, temperature in enumerate(temperatures):
        check_temperature(f"temperatures[{k}]", temperature)


def check_weight(name: str, value: Number) -> None:
    if not fits(value, is_weight):
        raise ValueError(f"{name} is {value}; expected a number from 0 to 1e18")


def check_code(name: str, value: int, choices: Mapping[str, int]) -> None:
    """A number that stands for one of ``choices``."""
    if value not in choices.values():
        raise ValueError(f"{name} is {value}; expected 0 to {len(choices) - 1}")


def check_indices(
    labels: Tensor, ignore_index: int, columns: Sequence[Tensor], classes: int
) -> None:
    """Labels and listed classes in range, where the numbers can be looked at."""
    if values_are_at_hand(labels):
        wrong = (labels != ignore_index) & ((labels < 0) | (labels >= classes))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"labels[{row}] is {int(labels[row])}; expected 0 to {classes - 1} or ignore_index "
                f"{ignore_index}"
            )
    for k, listed in enumerate(columns):
        if values_are_at_hand(listed):
            outside = listed[(listed < 0) | (listed >= classes)]
            if len(outside):
                raise ValueError(
                    f"columns[{k}] names class {int(outside[0])}; expected 0 to {classes - 1}"
                )
