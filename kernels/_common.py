# mypy: disallow-untyped-defs=False
"""What the kernels share: logits of students and teachers, their loads, exponentials, refusals."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_INF = tl.constexpr(float("inf"))

# --- what a kernel gets -------------------------------------------------------------------------

# ``row_stride``, ``classes`` and ``start`` travel in units of ``unit`` elements, a constant that
# divides them all: by itself Triton sees multiples of 16 only, and would load rows of 1000 classes
# one by one. No kernel builds a struct anew: Triton 3.6 has no None to put into it.


class Student(NamedTuple):
    data: Any
    row_stride: Any
    column_stride: Any
    classes: Any
    grad: Any  # (B, C) contiguous, or None
    unit: Any


class Teacher(NamedTuple):
    data: Any
    row_stride: Any
    column_stride: Any
    classes: Any
    start: Any  # class of its first column, if ``position`` is None
    position: Any  # (C + 1,): its column for each class, else -1; last: >= 0 if a class was invalid
    temperature: Any  # see ``number``
    grad: Any  # (B, classes) contiguous, or None
    unit: Any


class Rows(NamedTuple):
    """The rows of a program."""

    index: Any  # int64
    exists: Any
    valid: Any  # exists and is not ignored
    label: Any  # int32, -1 if ignored or out of range
    z_label: Any  # the student's logit there, NaN if out of range


def student_of(logits: Tensor, grad: Tensor | None) -> Student:
    row_stride, column_stride = logits.stride()
    classes = logits.shape[1]
    unit = math.gcd(16, row_stride, classes)
    return Student(
        logits, row_stride // unit, column_stride, classes // unit, grad, tl.constexpr(unit)
    )


def teacher_of(
    logits: Tensor, columns: Tensor | None, start: int, temperature: float | Tensor,
    num_classes: int, grad: Tensor | None,
) -> Teacher:  # fmt: skip
    """``columns`` is its list of the student's ``num_classes`` classes; None or empty: a range."""
    row_stride, column_stride = logits.stride()
    classes = logits.shape[1]
    unit = math.gcd(16, row_stride, classes, start)
    listed = columns is not None and columns.numel() > 0
    return Teacher(
        logits,
        row_stride // unit,
        column_stride,
        classes // unit,
        start // unit,
        _positions(columns, num_classes) if listed else None,
        temperature,
        grad,
        tl.constexpr(unit),
    )


def _positions(columns: Any, classes: int) -> Tensor:
    positions: Tensor = columns.new_full((classes + 1,), -1, dtype=torch.int32)
    grid = (triton.cdiv(columns.numel(), 1024),)
    _position_kernel[grid](columns, positions, columns.numel(), classes, COLUMNS=1024)
    return positions


@triton.jit
def _position_kernel(columns, position, num_columns, classes, COLUMNS: tl.constexpr):
    """Invert an index list; a class out of range marks the entry after the last."""
    index = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    listed = tl.load(columns + index, mask=index < num_columns, other=0)
    listed = tl.where((listed >= 0) & (listed < classes), listed, classes)
    tl.store(position + listed, index, mask=index < num_columns)


INTERPRETED = not isinstance(_position_kernel, triton.JITFunction)


def check_processor(name: str, x: Tensor) -> None:
    """Triton runs on a GPU, or interpreted.

    Raises:
        ValueError: it does neither; the message names the tensor.
    """
    if not (x.is_cuda or INTERPRETED):
        raise ValueError(
            f"backend 'triton' runs on cuda; {name} is on {x.device.type} (where only Triton's "
            "interpreter runs: set TRITON_INTERPRET=1 before triton is imported)"
        )


def check_logits(**logits: Tensor) -> None:
    """What Triton refuses of logits beyond what the operators refuse.

    Raises:
        ValueError, TypeError: the message names the tensor.
    """
    for name, x in logits.items():
        check_processor(name, x)
        if x.dtype == torch.float64:
            raise TypeError(
                f"{name} is torch.float64; backend 'triton' takes float32, bfloat16 and float16"
            )


# --- numbers ------------------------------------------------------------------------------------


@triton.jit
def number(x):
    """A float, or one in the device's memory."""
    if isinstance(x, float):  # in the interpreter
        return x
    elif x.dtype.is_ptr():
        return tl.load(x).to(tl.float32)
    else:
        return x


# --- loads --------------------------------------------------------------------------------------


@triton.jit
def classes_of(x):
    """The number of classes of a student or a teacher."""
    return x.classes * x.unit


@triton.jit
def load_student(student, rows, column):
    offset = (
        rows.index[:, None] * (student.row_stride * student.unit)
        + column.to(tl.int64)[None, :] * student.column_stride
    )
    mask = rows.valid[:, None] & (column < classes_of(student))[None, :]
    return tl.load(student.data + offset, mask=mask, other=-_INF).to(tl.float32)


@triton.jit
def position_of(teacher, column, valid):
    """The teacher's column for each class; outside [0, classes) where it has none."""
    if teacher.position is None:
        return column - teacher.start * teacher.unit
    else:
        return tl.load(teacher.position + column, mask=valid, other=-1)


@triton.jit
def has_position(teacher, position):
    return (position >= 0) & (position < classes_of(teacher))


@triton.jit
def load_teacher(teacher, rows, column, read, classes):
    """Its logits on the student's classes, -inf where there is nothing to read; the mask."""
    position = position_of(teacher, column, column < classes)
    mask = read[:, None] & has_position(teacher, position)[None, :]
    offset = (
        rows.index[:, None] * (teacher.row_stride * teacher.unit)
        + position.to(tl.int64)[None, :] * teacher.column_stride
    )
    return tl.load(teacher.data + offset, mask=mask, other=-_INF).to(tl.float32), mask


@triton.jit
def load_pair(student, teacher, rows, column, read):
    """Logits of both on the teacher's slice, -inf elsewhere."""
    t, mask = load_teacher(teacher, rows, column, read, classes_of(student))
    return tl.where(mask, load_student(student, rows, column), -_INF), t


@triton.jit
def label_position(teacher, rows):
    """The teacher's column for the label, and whether it has one."""
    position = position_of(teacher, rows.label, rows.label >= 0)
    return position, (rows.label >= 0) & has_position(teacher, position)


@triton.jit
def load_label(teacher, rows, position, mask):
    offset = (
        rows.index * (teacher.row_stride * teacher.unit)
        + position.to(tl.int64) * teacher.column_stride
    )
    return tl.load(teacher.data + offset, mask=mask, other=-_INF).to(tl.float32)


@triton.jit
def any_row(mask):
    return tl.max(mask.to(tl.int32), 0) != 0


@triton.jit
def touches(teacher, first, CLASSES: tl.constexpr):
    """Whether the teacher has a class in [first, first + CLASSES)."""
    if teacher.position is None:
        start = teacher.start * teacher.unit
        return (first < start + classes_of(teacher)) & (first + CLASSES > start)
    else:
        return first >= 0


# --- sums of exponentials, tile by tile ---------------------------------------------------------

# Relative to the largest logit so far. A probability of 0 times any logarithm is 0, and NaN stays
# NaN: comparisons are written so that NaN takes the arithmetic branch.


@triton.jit
def finite(maximum):
    """What to subtract before exponentials: 0 where there is nothing but -inf."""
    return tl.where(maximum == -_INF, 0.0, maximum)


@triton.jit
def positive(total):
    """What to divide by and take the logarithm of: 1 where there is nothing but -inf."""
    return tl.where(total == 0, 1.0, total)


@triton.jit
def rescale(x, scale):
    """x * scale for a sum so far: 0 where everything before was -inf; NaN and inf stay."""
    return tl.where((scale == 0) & (tl.abs(x) < _INF), 0.0, x * scale)


@triton.jit
def add_to_softmax(most, total, x, inverse_t):
    """One more tile of a row; a row of -inf keeps a maximum of -inf and a total of 0."""
    new = tl.maximum(most, tl.max(x, 1))
    shift = finite(new)
    down = tl.exp((most - shift) * inverse_t)
    return new, total * down + tl.sum(tl.exp((x - shift[:, None]) * inverse_t), 1)
