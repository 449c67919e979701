"""What kd_loss does on a GPU, counted from its plan and its machine code: no GPU is needed.

The time of a call is taken to be ``launches * launch + max(copy, issue, latency)``:

- copy: the bytes moved, at the bandwidth of a copy;
- issue: all instructions of the rows, one per scheduler every ``issue_cycles``;
- latency: the rounds in which the resident blocks go through all rows. In each, one warp goes
  through a row, adds up the sums of the row's other warps and blocks one by one, and makes its
  coefficients, an instruction every ``warp_cycles``; where blocks share the row, they take
  ``cluster_exchange`` more.

The instructions are those of the cheapest way through the code, where all vectors are whole.
``warp_cycles`` is what the profiler counted on an H100; ``launch``, ``issue_cycles`` and
``cluster_exchange`` are fitted to the times of 34 shapes in bf16 on it (10 to 131072 classes, K of
1 to 8), and make up for what the count leaves out. The times are 0.75 to 1.3 times the measured
ones, half of them within 9 %: the error of a fit. Fitted to half of the shapes, the other half came
out within a factor of 1.4, half of it within 15 %. For fp32, other devices and a program that is
changed the times are guesses.
"""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edufast import _build
from edufast.bench import sass
from edufast.bench.kd_loss import Shape
from edufast.bench.sass import Cost, Kernel, Loop
from edufast.bench.tables import numbers_table
from edufast.ops._library import library
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

CLASSES = (100, 1000, 4096, 8192, 21841, 32768, 50257, 131072)
TEACHERS = (1, 2, 4, 8)
BYTES = 256 << 20  # that a shape's batch moves at least: the memory is busy, not the launch


@dataclass(frozen=True)
class Gpu:
    """The figures of a device that the model goes by; seconds, bytes and hertz.

    Attributes:
        architecture: of its machine code: 90 for sm_90.
        processors: multiprocessors, of four schedulers each.
        shared_per_processor, shared_per_block: shared memory, and how much of it a block may have.
        copy: bytes read and written per second by a copy.
        clock: of the multiprocessors, under load.
        warp_cycles: between two instructions of a warp, which waits for results, shared memory,
            barriers and the code itself.
        issue_cycles: between two instructions of a scheduler with many warps.
        cluster_exchange: what a row takes longer that blocks of a cluster share.
        launch: of the kernel, with what it does before its first row and after its last.
        copy_launch: of a copy.
    """

    name: str
    architecture: int
    processors: int
    shared_per_processor: int
    shared_per_block: int
    copy: float
    clock: float
    warp_cycles: float
    issue_cycles: float
    cluster_exchange: float
    launch: float
    copy_launch: float


H100 = Gpu(
    "H100", 90, 132, 228 << 10, 227 << 10, 3.0e12, 1.7e9,
    warp_cycles=8.5, issue_cycles=2.3, cluster_exchange=1e-6, launch=5e-6, copy_launch=2e-6,
)  # fmt: skip


def grid() -> list[Shape]:
    """The shapes of the table: contiguous logits, every teacher knows all classes."""
    shapes = [Shape(1024, 100, 3, "bf16", "mean")]
    for classes in CLASSES:
        for teachers in TEACHERS:
            for dtype in ("bf16", "fp32"):
                rows = 1
                while Shape(rows, classes, teachers, dtype, "mean").bytes < BYTES:
                    rows *= 2
                shapes.append(Shape(rows, classes, teachers, dtype, "mean"))
    return shapes


# As in csrc/kd_loss_plan.cpp.
_PLANNED = (
    "staged", "lanes", "warp_per_row", "vectors", "threads", "blocks", "cluster", "held",
    "shared_bytes", "launches",
)  # fmt: skip


class _Plan(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in _PLANNED]


def plan(shape: Shape, gpu: Gpu) -> dict[str, int]:
    """How the call is laid out: csrc/cuda/kd_loss_plan.h."""
    make = ctypes.CDLL(library()).edufast_kd_loss_plan
    make.restype = _Plan
    make.argtypes = [ctypes.c_int64, *[ctypes.c_int32] * 2, ctypes.c_bool, *[ctypes.c_int32] * 3]
    planned = make(
        shape.rows, shape.classes, shape.teachers, shape.dtype == "bf16",
        gpu.processors, gpu.shared_per_processor, gpu.shared_per_block,
    )  # fmt: skip
    return {name: getattr(planned, name) for name in _PLANNED}


# --- machine code -------------------------------------------------------------------------------

STORED = {"bf16": "__nv_bfloat16", "fp32": "float"}
_MANGLED = {"bf16": "13__nv_bfloat16", "fp32": "f"}


_LANES = (0, 8)


def symbol(dtype: str, lanes: int) -> str:
    """What the symbol of a staged kernel of forward KL contains: of the one for rows that are not
    plain (csrc/cuda/kd_loss_plain_row.cuh).
    """
    lanes = lanes if lanes in _LANES else 0
    return f"kd_loss_staged_kernelI{_MANGLED[dtype]}LNS_10DivergenceE0ELi{lanes}ELi0E"


@functools.cache
def compiled(dtypes: tuple[str, ...], gpu: Gpu) -> tuple[dict[str, Kernel], dict[str, int]]:
    """The staged kernels of forward KL, and the registers of each, by symbol.

    Out of the library if it has CUDA code, else compiled here.

    Raises:
        UserError: nvcc, the sources or cuobjdump are missing.
    """
    if _build.cuda.startswith("nvcc"):
        return _read(Path(library()), gpu)
    sources = Path(__file__).parents[2] / "csrc"
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise UserError(f"--model: CUDA is {_build.cuda}, and nvcc to compile it was not found")
    if not sources.exists():
        raise UserError(f"--model: CUDA is {_build.cuda}, and the sources are not in {sources}")
    kernels = [
        f"template __global__ void kd_loss_staged_kernel<{STORED[dtype]}, Divergence::ForwardKL, "
        f"{lanes}, 0>(const __grid_constant__ KDLoss, const __grid_constant__ Launch);"
        for dtype in dtypes
        for lanes in _LANES
    ]
    lines = ['#include "cuda/kd_loss.cuh"', "namespace edufast::cuda {", *kernels, "}"]
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text("\n".join(lines), "utf-8")
        command = [nvcc, "-std=c++20", "-O3", f"-I{sources}", "-DEDUFAST_HAS_CUDA", "-cubin"]
        command += [f"-arch=sm_{gpu.architecture}", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"--model: nvcc failed: {done.stderr.strip().splitlines()[0]}")
        return _read(cubin, gpu)


def _read(file: Path, gpu: Gpu) -> tuple[dict[str, Kernel], dict[str, int]]:
    found = sass.kernels(file, gpu.architecture)
    usage = sass.usage(file, gpu.architecture)
    return found, {name: numbers["REG"] for name, numbers in usage.items()}


def _find(kernels: dict[str, Any], part: str) -> Any:
    return next(kernel for name, kernel in kernels.items() if part in name)


@dataclass(frozen=True)
class Counts:
    """Of one kernel, per row and warp.

    Attributes:
        sums, gradient: for each teacher.
        request: for each source, which are the student and the teachers.
        row: the rest, for a warp that only goes through the row.
        merges: instructions of the warp that concludes for each further warp, and each further
            block of a cluster, whose sums it adds; none where a row has lanes of one warp.
        loads, stores: widths in bits of the accesses to global memory in the loop over the rows
            that move logits and whole vectors of gradients.
    """

    sums: Cost
    gradient: Cost
    request: Cost
    row: Cost
    merges: list[float]
    loads: set[int]
    stores: set[int]

    @property
    def per_teacher(self) -> Cost:
        return self.sums.plus(self.gradient).plus(self.request)


@functools.cache
def counts(kernel: Kernel, held: int, chunks: int) -> Counts:
    """Count a staged kernel of forward KL.

    Args:
        kernel: its control flow.
        held: vectors of eight classes of every row that a thread has.
        chunks: 16-byte accesses of a vector.
    """
    rows = max(kernel.loops, key=lambda loop: kernel.count("MUFU.EX2", loop.blocks))
    warm = [loop for loop in rows.inner if kernel.count("MUFU.EX2", loop.blocks)]
    sums = next(loop for loop in warm if kernel.count("SHFL", loop.blocks))
    # A loop over the teachers for each vector; loops over the parts of a row have loops inside.
    vectors = [loop for loop in warm if not loop.inner]
    merges = [loop for loop in warm if loop.inner and loop is not sums]
    merges.sort(key=lambda loop: loop.header)  # as they run
    request = next(loop for loop in rows.inner if kernel.count("LDGSTS", loop.blocks))

    def rolled(loop: Loop) -> dict[int, Cost]:
        """Of the loops inside that are over the vectors."""
        inner = [x for x in loop.inner if kernel.count("LDS.128", x.blocks)]
        return {x.header: Cost().plus(kernel.cost(x, {}, Cost()), held) for x in inner}

    copies = held * chunks
    stores = copies - 1  # code for the last may lie on a way that is not found
    loads = 2 * copies  # for the maximum and for the sum
    gradient = Cost()
    for loop in vectors[:held]:
        gradient = gradient.plus(kernel.cost(loop, {}, Cost(exponentials=8)))
    inner = rolled(rows) | {loop.header: Cost() for loop in (sums, request, *vectors)}
    # Of the student: at T, for the cross-entropy, and for both parts of the gradient.
    least = Cost(exponentials=32 * held, loads=loads, stores=stores)
    return Counts(
        kernel.cost(sums, rolled(sums), Cost(exponentials=8 * held, loads=loads)),
        gradient,
        kernel.cost(request, {}, Cost(copies=copies)),
        kernel.cost(rows, inner, least),
        [kernel.cost(loop.inner[0], {}, Cost()).instructions for loop in merges],
        kernel.widths("LDGSTS", rows.blocks),
        kernel.widths("STG", rows.blocks),
    )


# --- the model ----------------------------------------------------------------------------------

# Instructions for a row's weights and coefficients: an H100's profiler counted 370 to 390. The
# cheapest way would pass by most of them, as lanes without a teacher do.
CONCLUSION = 380


def model(
    shape: Shape, gpu: Gpu = H100, dtypes: tuple[str, ...] = ("bf16", "fp32")
) -> dict[str, Any]:
    """Everything that is known of a shape without running it; see the module's docstring.

    Args:
        shape: with the weighting "mean".
        gpu: the device.
        dtypes: of the kernels to compile, where the library has none.

    Returns:
        Plan, counts and times in seconds. A shape of the general program has the plan only.

    Raises:
        UserError: nothing to count: see :func:`compiled`.
    """
    how = plan(shape, gpu)
    result: dict[str, Any] = {**asdict(shape), "bytes": shape.bytes, "plan": how}
    if not how["staged"]:
        return result
    kernels, registers = compiled(dtypes, gpu)
    lanes, held, warps = how["lanes"], how["held"], how["threads"] // 32
    name = symbol(shape.dtype, lanes)
    c = counts(_find(kernels, name), held, 1 if shape.dtype == "bf16" else 2)
    rows_of_block = how["threads"] // lanes if lanes else 1
    # Every block has a warp that concludes; where a warp has rows of its own, every warp does.
    concluding = warps if lanes else 1
    merges = zip(c.merges, (warps - 1, how["cluster"] - 1), strict=False)
    conclusion = CONCLUSION + sum(each * others for each, others in merges)
    row = c.row.plus(c.request)
    each = row.plus(c.per_teacher, shape.teachers)
    issued = each.instructions * warps + conclusion * concluding
    issued *= shape.rows * how["cluster"] / rows_of_block
    rounds = -(-shape.rows // (how["blocks"] // how["cluster"] * rows_of_block))
    blocks = -(-how["blocks"] // gpu.processors)
    in_flight = blocks * rows_of_block * shape.bytes * (1 + shape.teachers)
    in_flight //= shape.rows * how["cluster"] * (2 + shape.teachers)
    moved = shape.bytes + 8 * shape.rows
    alone = (each.instructions + conclusion) * gpu.warp_cycles / gpu.clock
    times = {
        "copy": moved / gpu.copy,
        "issue": issued * gpu.issue_cycles / (gpu.processors * 4 * gpu.clock),
        "latency": rounds * (alone + gpu.cluster_exchange * (how["cluster"] > 1)),
    }
    limit = max(times, key=lambda name: times[name])
    seconds = gpu.launch * how["launches"] + times[limit]
    return result | {
        "registers": _find(registers, name),
        "threads_per_processor": blocks * how["threads"],
        "bytes_in_flight": in_flight,
        "instructions_per_logit_and_teacher": c.per_teacher.instructions / (8 * held),
        "instructions_per_logit": (row.instructions + conclusion * concluding / warps) / (8 * held),
        "exponentials_per_logit_and_teacher": c.per_teacher.exponentials / (8 * held),
        "exponentials_per_logit": row.exponentials / (8 * held),
        "load_bits": sorted(c.loads),
        "store_bits": sorted(c.stores),
        "moved": moved,
        "times": times,
        "limit": limit,
        "seconds": seconds,
        "of_copy": (gpu.copy_launch + times["copy"]) / seconds,
    }


def table(results: list[dict[str, Any]], gpu: Gpu) -> Table:
    """A line for every shape."""
    heads = (
        "regs", "shared\nKB", "KB in\nflight", "instr\n/(l t)", "EX2\n/(l t)",
        "load\nbits", "µs", "% of\ncopy", "limit",
    )  # fmt: skip
    title = f"kd_loss on {gpu.name}: counted, and predicted by the model"
    t = numbers_table(title, "B x C, K, type", *heads)
    for r in results:
        name = f"{r['rows']}x{r['classes']} {r['teachers']} {r['dtype']}"
        if not r["plan"]["staged"]:
            t.add_row(f"{name}: general program, not counted")
            continue
        t.add_row(
            name,
            str(r["registers"]),
            f"{r['plan']['shared_bytes'] / 1024:.0f}",
            f"{r['bytes_in_flight'] / 1024:.0f}",
            f"{r['instructions_per_logit_and_teacher']:.1f}",
            f"{r['exponentials_per_logit_and_teacher']:.1f}",
            "/".join(map(str, r["load_bits"])),
            f"{r['seconds'] * 1e6:.1f}",
            f"{r['of_copy'] * 100:.0f}",
            r["limit"],
        )
    return t


def main(out: Path | None, gpu: Gpu = H100) -> None:
    """Print the table; with ``out``, write kd_loss_model.json into that folder.

    Raises:
        UserError: nothing to count: see :func:`compiled`.
    """
    shapes = grid()
    dtypes = tuple(sorted({shape.dtype for shape in shapes}))
    results = [model(shape, gpu, dtypes) for shape in shapes]
    console = Console()
    console.print(table(results, gpu))
    console.print(
        "Nothing here was measured; in bf16, measurements were within a factor of 1.4. instr, EX2: "
        "instructions and exponentials per logit and teacher in the loops over the teachers; with "
        "-o, more of each shape. % of copy: the time a copy of the same bytes takes at "
        f"{gpu.copy / 1e12:.1f} TB/s, over the predicted one, both with a launch."
    )
    if out is None:
        return
    with atomic_write(out / "kd_loss_model.json") as path:
        path.write_text(json.dumps({"gpu": asdict(gpu), "results": results}, indent=1), "utf-8")
