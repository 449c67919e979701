# mypy: disallow-untyped-defs=False
"""What the kernels share: logits of students and teachers, their loads, exponentials, refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_INF = tl.constexpr(float("inf"))
_LOG2_E = tl.constexpr(1 / math.log(2))

# --- what a kernel gets -------------------------------------------------------------------------

# ``row_stride``, ``classes`` and ``start`` travel in units of ``unit`` elements, a constant that
# divides them all: by itself Triton sees multiples of 16 only, and would load rows of 1000 classes
# one by one. A struct that a kernel builds holds no None, which Triton 3.6 cannot put into one, and
# no constant, which becomes a value there.


class Student(NamedTuple):
    data: Any
    row_stride: Any
    column_stride: Any
    classes: Any
    grad: Any  # (B, C) contiguous, or None
    unit: Any


class Teacher(NamedTuple):
    """With addresses in place of pointers, so that ``pick`` can choose among several types."""

    data: Any
    kind: Any  # of the logits: a position in TYPES
    row_stride: Any
    column_stride: Any
    classes: Any
    start: Any  # class of its first column, if there are no positions
    position: Any  # (C + 1,): its column for each class, else -1; last: >= 0 if a class was invalid
    temperature: Any  # see ``number``
    grad: Any  # (B, classes) contiguous


class Shared(NamedTuple):
    """What all teachers have in common: constants."""

    unit: Any
    alignment: Any  # divides all addresses
    has_positions: Any  # whether any of them is not 0
    has_grad: Any


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


TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_F32, _BF16, _F16 = (tl.constexpr(i) for i in TYPES.values())


def teachers_of(
    logits: Sequence[Tensor],
    columns: Sequence[Tensor],
    starts: Sequence[int],
    temperatures: Sequence[float | Tensor],
    num_classes: int,
    grads: Sequence[Tensor],
) -> tuple[tuple[Teacher, ...], Shared, list[Tensor]]:
    """K teachers, what they share, and what has to outlive the launch.

    ``columns`` are their lists of the student's ``num_classes`` classes; without elements: a range.
    """
    listed = [c if c.numel() else None for c in columns] or [None] * len(logits)
    positions = [c if c is None else _positions(c, num_classes) for c in listed]
    numbers = [n for t, s in zip(logits, starts, strict=True) for n in (t.stride(0), t.shape[1], s)]
    unit = math.gcd(16, *numbers)
    alignment = math.gcd(16, *(t.data_ptr() for t in (*logits, *grads)))
    found = (unit, alignment, any(p is not None for p in positions), bool(grads))
    teachers = tuple(
        Teacher(
            t.data_ptr(),
            tl.constexpr(TYPES[t.dtype]),
            t.stride(0) // unit,
            t.stride(1),
            t.shape[1] // unit,
            starts[k] // unit,
            0 if (position := positions[k]) is None else position.data_ptr(),
            temperatures[k],
            grads[k].data_ptr() if grads else 0,
        )
        for k, t in enumerate(logits)
    )
    shared = Shared(*map(tl.constexpr, found))
    return teachers, shared, [p for p in positions if p is not None]


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


# --- one teacher of several ---------------------------------------------------------------------


@triton.jit
def pick(teachers, shared, k, K: tl.constexpr):
    """Teacher ``k``, in units of elements, in a loop that is not unrolled: what is compiled does
    not grow with K."""
    first = teachers[0]
    data, kind = tl.cast(first.data, tl.int64), first.kind
    row_stride, column_stride = first.row_stride, first.column_stride
    classes, start, temperature = first.classes, first.start, number(first.temperature)
    position, grad = tl.cast(first.position, tl.int64), tl.cast(first.grad, tl.int64)
    for i in tl.static_range(1, K):
        other = teachers[i]
        chosen = k == i
        data = tl.where(chosen, other.data, data)
        kind = tl.where(chosen, other.kind, kind)
        row_stride = tl.where(chosen, other.row_stride, row_stride)
        column_stride = tl.where(chosen, other.column_stride, column_stride)
        classes = tl.where(chosen, other.classes, classes)
        start = tl.where(chosen, other.start, start)
        position = tl.where(chosen, other.position, position)
        temperature = tl.where(chosen, number(other.temperature), temperature)
        grad = tl.where(chosen, other.grad, grad)
    unit = shared.unit
    return Teacher(
        data, kind, row_stride * unit, column_stride, classes * unit, start * unit, position,
        temperature, grad,
    )  # fmt: skip


@triton.jit
def put(table, k, x):
    """The table with ``x`` as its column ``k``."""
    j = tl.arange(0, table.shape[1])
    return tl.where((j == k)[None, :], x[:, None], table)


# --- loads --------------------------------------------------------------------------------------


@triton.jit
def _pointer(address, T: tl.constexpr, ALIGNMENT: tl.constexpr):
    return tl.multiple_of(address.to(tl.pointer_type(T), bitcast=True), ALIGNMENT)


@triton.jit
def _read_as(address, T: tl.constexpr, ALIGNMENT: tl.constexpr, offset, mask):
    x = tl.load(_pointer(address, T, ALIGNMENT) + offset, mask=mask, other=-_INF)
    return x.to(tl.float32)


@triton.jit
def _read(teacher, shared, offset, mask):
    """Logits of any type as float32, -inf where masked.

    Of three loads two read nothing; where all teachers have one type, two are not compiled. In
    branches instead, the loads are more than Triton 3.6 can assign layouts to.
    """
    data, kind = teacher.data, teacher.kind
    x = _read_as(data, tl.float32, shared.alignment, offset, mask & (kind == _F32))
    y = _read_as(data, tl.bfloat16, shared.alignment, offset, mask & (kind == _BF16))
    z = _read_as(data, tl.float16, shared.alignment, offset, mask & (kind == _F16))
    return tl.where(kind == _F32, x, tl.where(kind == _BF16, y, z))


@triton.jit
def write_teacher_grad(teacher, shared, x, offset, mask):
    """A gradient has its logits' type, but float32 for float16."""
    data = _pointer(teacher.grad, tl.bfloat16, shared.alignment)
    tl.store(data + offset, x.to(tl.bfloat16), mask=mask & (teacher.kind == _BF16))
    data = _pointer(teacher.grad, tl.float32, shared.alignment)
    tl.store(data + offset, x, mask=mask & (teacher.kind != _BF16))


@triton.jit
def classes_of(student):
    """The number of a student's classes."""
    return student.classes * student.unit


@triton.jit
def load_student(student, rows, column):
    mask = rows.valid[:, None] & (column < classes_of(student))[None, :]
    return _load_student(student, rows, column, mask)


@triton.jit
def _load_student(student, rows, column, mask):
    offset = (
        rows.index[:, None] * (student.row_stride * student.unit)
        + column.to(tl.int64)[None, :] * student.column_stride
    )
    return tl.load(student.data + offset, mask=mask, other=-_INF).to(tl.float32)


@triton.jit
def position_of(teacher, shared, column, valid):
    """The teacher's column for each class; outside [0, classes) where it has none."""
    position = (column - teacher.start).to(tl.int32)
    if shared.has_positions:  # noqa: SIM102  # known when it is compiled
        if teacher.position != 0:
            positions = _pointer(teacher.position, tl.int32, 4)
            position = tl.load(positions + column, mask=valid, other=-1)
    return position


@triton.jit
def has_invalid_class(teacher, classes):
    """Whether the teacher's list of classes names one out of range."""
    positions = _pointer(teacher.position, tl.int32, 4)
    return tl.load(positions + classes, mask=teacher.position != 0, other=-1) >= 0


@triton.jit
def has_position(teacher, position):
    return (position >= 0) & (position < teacher.classes)


@triton.jit
def load_teacher(teacher, shared, rows, column, read, classes):
    """Its logits on the student's classes, -inf where there is nothing to read; the mask."""
    position = position_of(teacher, shared, column, column < classes)
    mask = read[:, None] & has_position(teacher, position)[None, :]
    offset = (
        rows.index[:, None] * teacher.row_stride
        + position.to(tl.int64)[None, :] * teacher.column_stride
    )
    return _read(teacher, shared, offset, mask), mask


@triton.jit
def load_pair(student, teacher, shared, rows, column, read):
    """Logits of both on the teacher's slice, -inf elsewhere.

    The student's come from the cache once more, which takes fewer instructions and registers than
    a mask for each element.
    """
    t, mask = load_teacher(teacher, shared, rows, column, read, classes_of(student))
    return _load_student(student, rows, column, mask), t


@triton.jit
def label_position(teacher, shared, rows):
    """The teacher's column for the label, and whether it has one."""
    position = position_of(teacher, shared, rows.label, rows.label >= 0)
    return position, (rows.label >= 0) & has_position(teacher, position)


@triton.jit
def load_label(teacher, shared, rows, position, mask):
    offset = rows.index * teacher.row_stride + position.to(tl.int64) * teacher.column_stride
    return _read(teacher, shared, offset, mask)


@triton.jit
def any_row(mask):
    return tl.max(mask.to(tl.int32), 0) != 0


@triton.jit
def touches(teacher, shared, first, CLASSES: tl.constexpr):
    """Whether the teacher has a class in [first, first + CLASSES), as far as that is known."""
    found = (first < teacher.start + teacher.classes) & (first + CLASSES > teacher.start)
    if shared.has_positions:
        found = found | (teacher.position != 0)
    return found


# --- exponentials ---------------------------------------------------------------------------------


@triton.jit
def exp(x):
    """In two instructions: ``tl.exp`` takes four more to keep what is below 1e-38."""
    return tl.exp2(x * _LOG2_E)


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
    down = exp((most - shift) * inverse_t)
    return new, total * down + tl.sum(exp((x - shift[:, None]) * inverse_t), 1)
