"""Calling the CUDA backend, emulated on the CPU, with the problems of the operator."""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from edufast import _build
from edufast.ops._autograd import gradient_dtype
from edufast.ops.kd_loss import kd_loss_arguments
from edufast.ops.reference.kd_loss import REDUCTIONS, KDLoss
from tests.ops.cases import Inputs, Outcome

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
MAX_TEACHERS = 32
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


class CLogits(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("row_stride", ctypes.c_int64),
        ("col_stride", ctypes.c_int64),
        ("dtype", ctypes.c_uint8),
    ]

    @classmethod
    def of(cls, x: Tensor) -> CLogits:
        return cls(x.data_ptr(), x.stride(0), x.stride(1), DTYPES[x.dtype])


class CTeacher(ctypes.Structure):
    _fields_ = [
        ("logits", CLogits),
        ("classes", ctypes.c_int32),
        ("start", ctypes.c_int32),
        ("columns", ctypes.c_void_p),
        ("temperature", ctypes.c_float),
        ("grad", ctypes.c_void_p),
    ]


class CProblem(ctypes.Structure):
    """KDLoss of csrc/kd_loss.h."""

    _fields_ = [
        ("student", CLogits),
        ("rows", ctypes.c_int64),
        ("classes", ctypes.c_int32),
        ("num_teachers", ctypes.c_int32),
        ("teachers", CTeacher * MAX_TEACHERS),
        ("labels", ctypes.c_void_p),
        ("label_stride", ctypes.c_int64),
        ("ignore_index", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("weight_row_stride", ctypes.c_int64),
        ("weight_col_stride", ctypes.c_int64),
        ("weighting", ctypes.c_int64),
        ("divergence", ctypes.c_int64),
        ("divergence_params", ctypes.c_float * 2),
        ("alpha", ctypes.c_float),
        ("label_smoothing", ctypes.c_float),
        ("numbers", ctypes.c_void_p),
        ("reduction", ctypes.c_int64),
        ("loss", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("grad_dtype", ctypes.c_uint8),
    ]


class Device(ctypes.Structure):
    """Two multiprocessors unless told: every block then takes several rows."""

    _fields_ = [
        ("processors", ctypes.c_int),
        ("shared_per_processor", ctypes.c_int),
        ("shared_per_block", ctypes.c_int),
        ("largest_cluster", ctypes.c_int),
    ]

    def __init__(self, processors: int = 2, shared: int = 227 << 10, clusters: bool = True) -> None:
        super().__init__(processors, shared + 1024, shared, 16 if clusters else 1)


class CChoice(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32) for name in ("blocks", "threads", "cluster", "cache_bytes", "flags")
    ]


@dataclass
class Choice:
    """How the plan laid the call out."""

    blocks: int
    threads: int
    cluster: int
    cache_bytes: int
    warp_per_row: bool
    vectors: bool
    doubles: bool
    prepared: bool
    staged: bool
    plain: bool  # rows may be of the simple kind
    lanes: int


class Emulated(NamedTuple):
    loss: Tensor
    grad: Tensor
    teacher_grads: list[Tensor]
    choice: Choice
    workspace: Tensor


def _compile(target: Path, *arguments: str | Path) -> None:
    """Compile a shared library; skips the test where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ was not found: the CUDA kernels cannot be emulated")
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-fno-strict-aliasing"]
    includes = [f"-I{HERE}", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *options, *includes, *arguments, "-o", target], check=True)


@functools.cache
def library() -> ctypes.CDLL:
    """The emulated kernels of kd_loss."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kd_loss.so"
        _compile(target, HERE / "kd_loss.cpp")
        loaded = ctypes.CDLL(str(target))
    loaded.kd_loss.restype = CChoice
    loaded.problem_bytes.restype = loaded.workspace_bytes.restype = ctypes.c_int64
    assert loaded.problem_bytes() == ctypes.sizeof(CProblem)
    return loaded


@functools.cache
def load_operator(operator: str) -> ctypes.CDLL:
    """Registers ``edufast_emulated::<operator>``, with the emulated kernel behind its checks.

    The library's ``emulation_order`` and ``emulation_numbers`` are in cuda_emulation.h.
    """
    torch_dir = Path(torch.__file__).parent
    major, minor = map(int, _build.torch_target.split("."))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"lib{operator}.so"
        _compile(
            target,
            "-Dedufast=edufast_emulated",  # the namespace, in C++ and in torch
            f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
            "-ffp-contract=off",
            "-fvisibility=hidden",
            "-isystem",
            torch_dir / "include",
            HERE / f"{operator}.cpp",
            ROOT / "csrc/checks.cpp",
            *(ROOT / "csrc").glob(f"{operator}*.cpp"),
            torch_dir / "lib/libtorch_cpu.so",
        )
        torch.ops.load_library(str(target))
        return ctypes.CDLL(str(target))


@contextmanager
def emulated(operator: str, **settings: int) -> Iterator[None]:
    """``order`` of blocks and threads, or ``numbers``, for an emulated operator."""
    library = load_operator(operator)
    variables = {name: ctypes.c_uint.in_dll(library, f"emulation_{name}") for name in settings}
    try:
        for name, variable in variables.items():
            variable.value = settings[name]
        yield
    finally:
        for variable in variables.values():
            variable.value = 0


_tokens = itertools.count(1)


def problem_of(x: Inputs) -> KDLoss:
    return kd_loss_arguments(x.student, x.teachers, x.labels, **x.arguments)


def run(
    p: KDLoss,
    device: Device | None = None,
    order: int = 0,
    workspace: Tensor | None = None,
    token: int | None = None,
    grad: Tensor | None = None,
) -> Emulated:
    """The operator's outputs. They and the workspace start as NaN, or as the ones passed in.

    ``p.numbers`` are numbers on the device: the floats that they replace are NaN.
    """
    lib = library()

    def blank(shape: Any, dtype: torch.dtype) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype)

    c = CProblem()
    c.student = CLogits.of(p.student)
    c.rows, c.classes = p.student.shape
    c.num_teachers = len(p.teachers)
    if grad is None:
        grad = blank(p.student.shape, gradient_dtype(p.student))
    wanted = p.teachers if p.teacher_grad else []
    teacher_grads = [blank(t.shape, gradient_dtype(t)) for t in wanted]
    for k, t in enumerate(p.teachers):
        listed = bool(p.columns) and p.columns[k].numel() > 0
        c.teachers[k] = CTeacher(
            CLogits.of(t),
            t.shape[1],
            p.starts[k],
            p.columns[k].data_ptr() if listed else None,
            p.temperatures[k] if p.numbers is None else math.nan,
            teacher_grads[k].data_ptr() if p.teacher_grad else None,
        )
    c.labels, c.label_stride = p.labels.data_ptr(), p.labels.stride(0)
    c.ignore_index = p.ignore_index
    if p.weights is not None:
        c.weights = p.weights.data_ptr()
        c.weight_row_stride = p.weights.stride(0) if p.weights.dim() == 2 else 0
        c.weight_col_stride = p.weights.stride(-1)
    c.weighting, c.divergence, c.reduction = p.weighting, p.divergence, p.reduction
    params = list(p.divergence_params) if p.numbers is None else [math.nan] * 2
    if len(params) == 1:  # js takes beta; the kernels get 1 - beta, too
        params.append(1 - params[0])
    c.divergence_params[: len(params)] = params
    c.alpha, c.label_smoothing = p.alpha, p.label_smoothing
    if p.numbers is not None:
        c.alpha = c.label_smoothing = math.nan
        c.numbers = p.numbers.data_ptr()
    none = p.reduction == REDUCTIONS["none"]
    loss = torch.full(
        (c.rows,) if none else (),
        torch.nan,
        dtype=torch.float64 if p.student.dtype == torch.float64 else torch.float32,
    )
    c.loss, c.grad, c.grad_dtype = loss.data_ptr(), grad.data_ptr(), DTYPES[grad.dtype]
    if workspace is None:
        size = lib.workspace_bytes(ctypes.byref(c))
        workspace = torch.full((size,), 255, dtype=torch.uint8)
    chosen = lib.kd_loss(
        ctypes.byref(c),
        ctypes.c_void_p(workspace.data_ptr()),
        ctypes.byref(device or Device()),
        ctypes.c_uint(order),
        ctypes.c_uint64((next(_tokens) if token is None else token) << 16),
    )
    flags = [bool(chosen.flags >> bit & 1) for bit in range(6)]
    choice = Choice(
        chosen.blocks, chosen.threads, chosen.cluster, chosen.cache_bytes, *flags, chosen.flags >> 6
    )
    return Emulated(loss, grad, teacher_grads, choice, workspace)


def evaluate(x: Inputs, device: Device | None = None) -> tuple[Outcome, Choice]:
    """Like cases.evaluate: with an upstream gradient of one, in the logits' own types.

    Runs with blocks and threads in ascending, descending and a random order: equal bits, or a
    barrier is missing.
    """
    p = problem_of(x)
    first, *others = (run(p, device, order) for order in range(3))
    for other in others:
        for a, b in zip(
            (first.loss, first.grad, *first.teacher_grads),
            (other.loss, other.grad, *other.teacher_grads),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    grads = [first.grad.to(p.student.dtype)]
    grads += [g.to(t.dtype) for g, t in zip(first.teacher_grads, p.teachers, strict=False)]
    return Outcome(first.loss, grads), first.choice
