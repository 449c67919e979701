"""What kd_loss does on a GPU, counted from its plan and its machine code: no GPU is needed.

The time of a call is predicted as ``launch + max(copy, issue, sfu, latency)``:

- copy: the bytes moved, at the bandwidth of a copy;
- issue: every warp instruction of the rows, four per clock and multiprocessor; counted where all
  vectors are whole: what a warp does for the masked ends of its rows comes on top;
- sfu: every exponential of the rows, sixteen per clock and multiprocessor;
- latency: the rounds in which the resident blocks go through all rows, each as long as the memory's
  latency, an exchange between the threads of a row, and a warp's instructions at two clocks each.
"""

from __future__ import annotations

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

from edufast import _native
from edufast.bench import sass
from edufast.bench.kd_loss import Shape
from edufast.bench.sass import Cost, Kernel, Loop
from edufast.bench.tables import numbers_table
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
        processors: multiprocessors.
        shared_per_processor, shared_per_block: shared memory, and how much of it a block may have.
        registers: of a multiprocessor.
        copy: bytes read and written per second by a copy.
        clock: of the multiprocessors, under load.
        latency: of device memory, under load.
        block_exchange, cluster_exchange: between the threads of a row.
        launch: of a kernel in a graph.
    """

    name: str
    architecture: int
    processors: int
    shared_per_processor: int
    shared_per_block: int
    registers: int
    copy: float
    clock: float
    latency: float
    block_exchange: float
    cluster_exchange: float
    launch: float


H100 = Gpu(
    "H100", 90, 132, 228 << 10, 227 << 10, 1 << 16, 3.0e12, 1.7e9, 1e-6, 0.2e-6, 1e-6, 2.5e-6
)


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


def plan(shape: Shape, gpu: Gpu) -> dict[str, int]:
    """How the call is laid out: csrc/cuda/kd_loss_plan.h."""
    return _native.kd_loss_plan(
        shape.rows, shape.classes, shape.teachers, shape.dtype == "bf16",
        gpu.processors, gpu.shared_per_processor, gpu.shared_per_block,
    )  # fmt: skip


# --- machine code -------------------------------------------------------------------------------

STORED = {"bf16": "__nv_bfloat16", "fp32": "float"}
_MANGLED = {"bf16": "13__nv_bfloat16", "fp32": "f"}


def _lanes(part_of_warp: bool) -> int:
    return _native.lanes_of_a_part if part_of_warp else 0


def symbol(dtype: str, part_of_warp: bool) -> str:
    """What the symbol of a staged kernel of forward KL contains."""
    lanes = _lanes(part_of_warp)
    return f"kd_loss_staged_kernelI{_MANGLED[dtype]}LNS_10DivergenceE0ELi{lanes}E"


@functools.cache
def compiled(dtypes: tuple[str, ...], gpu: Gpu) -> tuple[dict[str, Kernel], dict[str, int]]:
    """The staged kernels of forward KL, and the registers of each, by symbol.

    Out of the library if it has CUDA code, else compiled here.

    Raises:
        UserError: nvcc, the sources or cuobjdump are missing.
    """
    if _native.cuda.startswith("nvcc"):
        library = Path(_native.__file__).with_name("libedufast.so")
        return _read(library, gpu)
    sources = Path(__file__).parents[2] / "csrc"
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise UserError(f"--model: CUDA is {_native.cuda}, and nvcc to compile it was not found")
    if not sources.exists():
        raise UserError(f"--model: CUDA is {_native.cuda}, and the sources are not in {sources}")
    kernels = [
        f"template __global__ void kd_loss_staged_kernel<{STORED[dtype]}, Divergence::ForwardKL, "
        f"{_lanes(part)}>(const __grid_constant__ KDLoss, const __grid_constant__ Launch);"
        for dtype in dtypes
        for part in (False, True)
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
        held: vectors of eight classes of every row that a thread has.
        sums, gradient: once around the loops over the teachers.
        row: the rest, for a warp that only goes through the row.
        conclusion: what the warp that also makes weights and coefficients does beyond that.
        loads, stores: widths in bits of the accesses to global memory in the loop over the rows
            that move logits and whole vectors of gradients.
    """

    held: int
    sums: Cost
    gradient: Cost
    row: Cost
    conclusion: Cost
    loads: set[int]
    stores: set[int]

    @property
    def per_teacher(self) -> float:
        """Instructions per logit and teacher."""
        return (self.sums.instructions + self.gradient.instructions) / (8 * self.held)

    @property
    def exponentials(self) -> float:
        """Per logit and teacher."""
        return (self.sums.exponentials + self.gradient.exponentials) / (8 * self.held)


def counts(kernel: Kernel, held: int, chunks: int) -> Counts:
    """Count a staged kernel; ``chunks``: 16-byte copies of a vector of eight."""
    rows = max(kernel.loops, key=lambda loop: kernel.count("MUFU.EX2", loop.blocks))
    sums = next(
        x for x in rows.inner if kernel.count("SHFL", x.blocks) and _exponentials(kernel, x)
    )
    gradient = next(
        x for x in rows.inner if kernel.count("LDGSTS", x.blocks) and _exponentials(kernel, x)
    )
    vector, copies = 8 * held, held * chunks
    a = kernel.cost(sums, {}, Cost(0, vector))
    b = kernel.cost(gradient, {}, Cost(0, vector, copies))
    inner = {sums.header: a, gradient.header: b}
    least = Cost(0, 3 * vector, 2 * copies)
    teacher = a.plus(b)
    row = kernel.cost(rows, inner, least)
    first = kernel.cost(rows, inner, least.plus(Cost(divisions=3)))
    return Counts(
        held, a, b, row.plus(teacher, -1), first.plus(row, -1),
        kernel.widths("LDGSTS", rows.blocks), kernel.widths("STG", rows.blocks),
    )  # fmt: skip


def _exponentials(kernel: Kernel, loop: Loop) -> int:
    return kernel.count("MUFU.EX2", loop.blocks)


# --- the model ----------------------------------------------------------------------------------


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
    part = bool(how["part_of_warp"])
    name = symbol(shape.dtype, part)
    held = _native.held_by_part if part else _native.held_by_block
    c = counts(_find(kernels, name), held, 1 if shape.dtype == "bf16" else 2)
    lanes = how["threads"] * how["cluster"] if not part else _lanes(part)
    rows_of_block = how["threads"] // lanes if part else 1
    warps = how["threads"] // 32
    blocks = min(
        gpu.shared_per_processor // (how["shared_bytes"] + 1024),
        gpu.registers // (_find(registers, name) * how["threads"]),
        -(-how["blocks"] // gpu.processors),
    )
    # Every block has a warp that concludes; where several rows share a warp, every warp does.
    concluding = warps if part else 1
    passes = c.sums.plus(c.gradient)
    each = c.row.plus(passes, shape.teachers)
    block = Cost().plus(each, warps).plus(c.conclusion, concluding)
    rounds = -(-shape.rows // (how["blocks"] // how["cluster"] * rows_of_block))
    issued = Cost().plus(block, rounds * how["blocks"])
    in_flight = blocks * rows_of_block * shape.bytes * (1 + shape.teachers)
    in_flight //= shape.rows * how["cluster"] * (2 + shape.teachers)
    exchange = gpu.cluster_exchange if how["cluster"] > 1 else gpu.block_exchange * (warps > 1)
    alone = each.plus(c.conclusion)
    moved = shape.bytes + 8 * shape.rows
    times = {
        "copy": moved / gpu.copy,
        "issue": issued.instructions / (gpu.processors * 4 * gpu.clock),
        "sfu": 32 * issued.exponentials / (gpu.processors * 16 * gpu.clock),
        "latency": rounds * (gpu.latency + exchange + 2 * alone.instructions / gpu.clock),
    }
    limit = max(times, key=lambda name: times[name])
    seconds = gpu.launch * how["launches"] + times[limit]
    return result | {
        "registers": _find(registers, name),
        "threads_per_processor": blocks * how["threads"],
        "bytes_in_flight": in_flight,
        "instructions_per_logit_and_teacher": c.per_teacher,
        "instructions_per_logit": (
            c.row.instructions + c.conclusion.instructions * concluding / warps
        )
        / (8 * held),
        "exponentials_per_logit_and_teacher": c.exponentials,
        "exponentials_per_logit": c.row.exponentials / (8 * held),
        "load_bits": sorted(c.loads),
        "store_bits": sorted(c.stores),
        "moved": moved,
        "times": times,
        "limit": limit,
        "seconds": seconds,
        "of_copy": (gpu.launch + times["copy"]) / seconds,
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
        "Nothing here was measured. instr, EX2: instructions and exponentials per logit and "
        "teacher in the loops over the teachers; with -o, more of each shape. % of copy: the time "
        f"a copy of the same bytes takes at {gpu.copy / 1e12:.1f} TB/s, over the predicted one, "
        "both with a launch."
    )
    if out is None:
        return
    with atomic_write(out / "kd_loss_model.json") as path:
        path.write_text(json.dumps({"gpu": asdict(gpu), "results": results}, indent=1), "utf-8")
