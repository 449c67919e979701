"""Compiles, without a GPU, what a launch function would launch.

Prints what each kernel uses, and how many loads of 16 bytes it has.

Run in a process of its own, as ``python -m tests.ops.compile_offline CAPABILITY OPERATOR SIZE``
with TRITON_INTERPRET=0.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


class Driver:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def report(kernel: Any) -> str:
    """Registers, stack and local memory of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, check=True)
    return next(line for line in done.stdout.decode().splitlines() if "STACK" in line).strip()


def instead_of_launching(kernel: JITFunction, grid: object) -> Callable[..., None]:
    def compile_only(*arguments: Any, **options: Any) -> None:
        compiled = kernel.run(*arguments, grid=grid, warmup=True, **options)
        wide = len(re.findall(r"ld\.global\S*\.v4\.b32", compiled.asm["ptx"]))
        print(kernel.__name__, report(compiled), f"WIDE:{wide}", flush=True)

    return compile_only


def dist_loss(classes: int) -> None:
    from edufast.kernels.dist_loss import _launch

    from edufast.ops.reference.dist_loss import DistLoss

    x = torch.zeros(64, classes, dtype=torch.bfloat16)
    _launch(DistLoss(x, x, 2.0, 1.0, 1.0), torch.zeros(()), torch.zeros(64, classes))


def min_norm(teachers: int) -> None:
    from edufast.kernels import _common, min_norm

    _common.INTERPRETED = True  # there is no GPU: what is refused then is what is wanted here
    x = torch.zeros(64, 1000)
    min_norm._gradient_gram(x, [x] * 4, [], [0] * 4, [4.0] * 4)
    min_norm._min_norm_weights(torch.zeros(teachers, teachers, dtype=torch.float64), 0.5)


def kd_loss(teachers: int) -> None:
    """A tile and the loop: the everyday loss, and whatever else a kernel may contain."""
    from edufast.kernels import kd_loss as kernel

    from edufast.ops.reference import kd_loss as reference
    from tests.ops.test_triton_offline import problem

    reference.values_are_at_hand = lambda x: False  # type: ignore[assignment]  # as on a GPU
    heavy = {"divergence": "js", "weighting": "confidence", "teacher_grad": True}
    listed = {"divergence": "dkd", "weighting": "entropy", "numbers": True}
    for classes in (100, 20_000):
        for options in ({}, heavy, listed):
            p = problem(classes, teachers=teachers, **options)
            if options is listed:
                p = p._replace(columns=[torch.arange(classes) for _ in p.teachers])
            _, grad, teacher_grads = kernel.empty_results(p)
            kernel._launch(p, torch.empty(len(p.student)), grad, teacher_grads)


def kd_loss_tests(looped: int) -> None:
    """What test_kd_loss_triton.py runs on a GPU: every combination, in a tile or looped."""
    from edufast.kernels import _common
    from edufast.kernels import kd_loss as kernel

    from edufast.ops.kd_loss import kd_loss_arguments
    from edufast.ops.reference import kd_loss as reference
    from tests.ops import test_kd_loss_triton as tests

    _common.INTERPRETED = True  # as above
    reference.values_are_at_hand = lambda x: False  # type: ignore[assignment]  # as on a GPU
    if looped:
        kernel.TILES, kernel.LOOP = (), tests.SHORT_LOOP
    for x in (*itertools.starmap(tests.combination, tests.PAIRS), tests.five_of_several_types()):
        kernel.kd_loss(*kd_loss_arguments(x.student, x.teachers, x.labels, **x.arguments))


def merge(tensors: int) -> None:
    from edufast.kernels import _common
    from edufast.kernels.merge import merge_

    _common.INTERPRETED = True  # as above
    targets = [torch.zeros(5000) for _ in range(tensors)]
    for lists, keep in ((1, 0.5), (3, 0.0)):
        merge_(targets, [torch.zeros(5000) for _ in range(lists * tensors)], [0.5] * lists, keep,
               [], [], [])  # fmt: skip


def augment(channels: int) -> None:
    from edufast.kernels import _common, augment

    _common.INTERPRETED = True  # as above
    images = torch.zeros(2, 32, 32, channels, dtype=torch.uint8)
    index = torch.zeros(4, dtype=torch.int64)
    for dtype, flip in ((torch.bfloat16, True), (torch.float32, False)):
        numbers = [0.5] * channels
        augment._augment(images, index, index, 4, flip, numbers, numbers, dtype)


OPERATORS = {f.__name__: f for f in (augment, dist_loss, kd_loss, kd_loss_tests, merge, min_norm)}

if __name__ == "__main__":
    capability, operator, size = sys.argv[1:]
    triton.runtime.driver.set_active(Driver(int(capability)))
    JITFunction.__getitem__ = instead_of_launching
    torch.cuda.device_of = lambda _: contextlib.nullcontext()
    OPERATORS[operator](int(size))
