"""What Triton's compiler makes of kd_loss, for GPUs that need not be there.

Launches are real up to the point where a compiled kernel would go to the GPU, so what is compiled
has exactly the signature and the specialisation of a launch. Run as a program, this file compiles
one share of the configurations and prints a JSON object for each.

The configurations: every tile, and the loop, with two problems. One is the everyday one, bf16 and
forward KL, on the widest row of the tile (aligned: 16 bytes a load), on three generations. The
other, on one of them in turn, is chosen for pressure on registers: an odd width (each element its
own address), three teachers, their gradients, and the heaviest divergences and weightings in turn.
(Eight teachers do not spill either, but take minutes to compile.)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

CAPABILITIES = (80, 90, 100)
HEAVY = (("js", "confidence"), ("dkd", "entropy"), ("reverse_kl", "routed"), ("dkd", "given"))
SHARES = 2


def problem(
    classes: int,
    rows: int = 64,
    teachers: int = 2,
    dtype: torch.dtype = torch.bfloat16,
    divergence: str = "forward_kl",
    weighting: str = "mean",
    alpha: float = 0.3,
    temperature: float = 4.0,
    teacher_grad: bool = False,
    numbers: bool = False,
) -> Any:
    """With ``numbers``, those that may change are in memory."""
    from edufast.ops.reference.kd_loss import NO_FLOATS, REDUCTIONS, KDLoss
    from edufast.ops.reference.kd_loss_divergences import DEFAULT_PARAMS, DIVERGENCES
    from edufast.ops.reference.kd_loss_weights import WEIGHTINGS

    logits = torch.empty(rows, classes, dtype=dtype)
    p = KDLoss(
        student=logits,
        teachers=[torch.empty_like(logits) for _ in range(teachers)],
        labels=torch.empty(rows, dtype=torch.int64),
        weights=torch.empty(rows, teachers) if weighting == "given" else None,
        columns=[],
        starts=[0] * teachers,
        temperatures=[temperature] * teachers,
        alpha=alpha,
        weighting=WEIGHTINGS[weighting],
        divergence=DIVERGENCES[divergence],
        divergence_params=list(DEFAULT_PARAMS[divergence]),
        label_smoothing=0.1,
        ignore_index=-100,
        reduction=REDUCTIONS["mean"],
        teacher_grad=teacher_grad,
    )
    row = torch.tensor(p.floats.row(), dtype=torch.float64)
    return p._replace(**NO_FLOATS._asdict(), numbers=row) if numbers else p


class Compiler:
    """Stands in for the driver of a GPU; ``launch`` returns what a launch would have run."""

    def __init__(self, capability: int) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.runtime.jit import JITFunction

        self._target = GPUTarget("cuda", capability, 32)
        self._launched: list[Any] = []
        triton.runtime.driver.set_active(self)
        compiler = self

        def bind(kernel: Any, grid: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> None:
                compiler._launched.append(kernel.run(*args, grid=grid, warmup=True, **kwargs))

            return call

        JITFunction.__getitem__ = bind

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launch(self, p: Any) -> list[Any]:
        from edufast.kernels import kd_loss as kernel

        from edufast.ops.reference import kd_loss as reference

        reference.values_are_at_hand = lambda x: False  # type: ignore[assignment]  # as on a GPU
        self._launched = []
        _, grad, teacher_grads = kernel.empty_results(p)
        kernel._launch(p, torch.empty(len(p.student)), grad, teacher_grads)
        return self._launched


def configurations() -> list[tuple[int, dict[str, Any]]]:
    from edufast.kernels.kd_loss import LOOP, TILES

    heavy = {"teachers": 3, "teacher_grad": True, "dtype": torch.float32}
    result: list[tuple[int, dict[str, Any]]] = []
    for i, tile in enumerate((*TILES, LOOP)):
        classes = 50_000 if tile is LOOP else tile.classes
        result += [(capability, {"classes": classes}) for capability in CAPABILITIES]
        divergence, weighting = HEAVY[i % len(HEAVY)]
        pressing = {"classes": classes - 1, "divergence": divergence, "weighting": weighting}
        result.append((CAPABILITIES[i % len(CAPABILITIES)], pressing | heavy))
    result += [
        (capability, {"classes": classes, "divergence": divergence, "numbers": True} | heavy)
        for capability, classes, (divergence, _) in zip(
            CAPABILITIES, (256, 1000, 50_000), HEAVY, strict=False
        )
    ]
    return result


def _ptxas_report(kernel: Any, capability: int) -> str:
    """``ptxas -v``: the same assembler, on the same PTX, as Triton's own."""
    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    assembler = folder / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    target = re.search(r"^\.target (sm_\w+)", kernel.asm["ptx"], re.MULTILINE)
    assert target is not None
    source = Path(os.environ["TRITON_CACHE_DIR"]) / f"{os.getpid()}.ptx"
    source.write_text(kernel.asm["ptx"])
    return subprocess.run(
        [assembler, "-v", f"-arch={target[1]}", source, "-o", os.devnull],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip


def compile_share(share: int) -> None:
    for i, (capability, arguments) in enumerate(configurations()):
        # The three cheap ones of a tile and the dear one go to the same share.
        if (i // 4) % SHARES != share:
            continue
        for kernel in Compiler(capability).launch(problem(**arguments)):
            report = _ptxas_report(kernel, capability)
            spilled = [int(n) for n in re.findall(r"(\d+) bytes spill", report)]
            registers = re.search(r"Used (\d+) registers", report)
            line = {
                "kernel": kernel.metadata.name,
                "capability": capability,
                "classes": arguments["classes"],
                "aligned": "divergence" not in arguments,
                "numbers": "numbers" in arguments,
                "registers": int(registers[1]) if registers else None,
                "spilled": sum(spilled) if spilled else None,
                "fp64": re.findall(r"\S*\.f64\S*", kernel.asm["ptx"])[:3],
                "warps": kernel.metadata.num_warps,
                "wide_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", kernel.asm["ptx"])),
            }
            print(json.dumps(line), flush=True)


def specialise() -> None:
    """Launches that must not compile anew: they differ in numbers only."""
    compiler = Compiler(90)
    for classes in (100, 5000):
        kernels = [
            compiler.launch(problem(classes, rows, alpha=alpha, temperature=temperature))
            for rows, alpha, temperature in ((64, 0.3, 4.0), (100, 0.0, 1.0), (1, 1.0, 2.5))
        ]
        same = all(launched == kernels[0] for launched in kernels)
        print(json.dumps({"classes": classes, "launches": len(kernels[0]), "same": same}))


def count_instructions() -> None:
    """Exponentials, and loads of the logits, for several numbers of teachers."""
    compiler = Compiler(90)
    for teachers in (2, 8, 32):
        line: dict[str, Any] = {"teachers": teachers}
        for classes in (1000, 50_000):
            for kernel in compiler.launch(problem(classes, teachers=teachers)):
                ptx = kernel.asm["ptx"]
                ops = (r"ex2\.", r"ld\.global\S*\.v4\.b32")
                line[kernel.metadata.name] = [len(re.findall(op, ptx)) for op in ops]
        print(json.dumps(line), flush=True)


def _run(cache: Path, *arguments: str) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    triton = pytest.importorskip("triton")
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this Triton ships no ptxas")
    cache = tmp_path_factory.mktemp("triton")
    with ThreadPoolExecutor(SHARES) as pool:
        shares = pool.map(lambda share: _run(cache, "share", str(share)), range(SHARES))
        return [line for share in shares for line in share]


def test_no_configuration_spills(compiled: list[dict[str, Any]]) -> None:
    counts = Counter(line["kernel"] for line in compiled)
    assert counts["_tile_kernel"] + counts["_sums_kernel"] == len(configurations())
    assert counts["_gradient_kernel"] == counts["_sums_kernel"] > 0 < counts["weights_kernel"]
    assert all(line["registers"] for line in compiled)
    assert [line for line in compiled if line["spilled"] != 0] == []


def test_nothing_is_computed_in_fp64(compiled: list[dict[str, Any]]) -> None:
    # Numbers in memory are float64 until they are loaded.
    assert [line for line in compiled if line["fp64"] and not line["numbers"]] == []
    found = {op for line in compiled for op in line["fp64"]}
    assert all(op.startswith("cvt") for op in found), found


def test_aligned_rows_are_loaded_16_bytes_at_a_time(compiled: list[dict[str, Any]]) -> None:
    """The student; in a loop a teacher, and the student beside it."""
    from edufast.kernels.kd_loss import LOOP

    lines = [line for line in compiled if line["aligned"] and line["kernel"] != "_count_kernel"]
    for line in lines:
        classes = min(line["classes"], LOOP.classes)
        if classes >= 256:
            assert line["wide_loads"] == 3 * classes // (8 * 32 * line["warps"]), line


def test_what_is_compiled_does_not_grow_with_the_number_of_teachers(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    *few, many = _run(tmp_path, "teachers")
    assert many.pop("teachers") == 32
    for line in few:
        assert line.pop("teachers") > 1 and line == many


def test_new_numbers_do_not_compile_anew(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    for line in _run(tmp_path, "specialise"):
        assert line["same"] and line["launches"] == (2 if line["classes"] == 100 else 3), line


if __name__ == "__main__":
    if sys.argv[1] == "share":
        compile_share(int(sys.argv[2]))
    elif sys.argv[1] == "teachers":
        count_instructions()
    else:
        specialise()
