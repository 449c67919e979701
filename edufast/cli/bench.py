"""Commands that measure, ``edufast bench ...``; and bench diff."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from edufast.cli.common import device_name, say
from edufast.cli.environment import computes
from edufast.cli.options import DeviceOption, out_path, path_of, text_of
from edufast.utils.errors import UserError, visible
from edufast.utils.numbers import decimal

bench = typer.Typer(
    help="Measure kernels and training beside what you would use instead.", no_args_is_help=True
)
QuickOption = Annotated[bool, typer.Option("--quick", help="Fewer sizes: under a minute.")]
BenchOutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        parser=out_path,
        help="Folder for the numbers (JSON) and the plot; existing results are not repeated.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's).")]


@contextmanager
def _beside_compiled() -> Iterator[None]:
    """Around measurements that torch.compile takes part in, which takes a compiler."""
    from edufast.utils._torch_private import compiler_error, why_not_compiled

    try:
        yield
    except compiler_error() as error:
        raise UserError(
            "torch.compile, which is part of the measurement, does not work here: "
            f"{why_not_compiled(error)}"
        ) from error


def _alone(out: Path | None, measure: Callable[..., None], *arguments: Any) -> None:
    """``measure(*arguments)``, while no other process may write results into ``out``."""
    from edufast.utils.lock import folder_lock

    with nullcontext() if out is None else folder_lock(out):
        measure(*arguments)


@bench.command("kd")
@computes
def bench_kd(
    quick: QuickOption = False,
    out: BenchOutOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    model: Annotated[
        bool,
        typer.Option(
            "--model", help="Instead, predict from the CUDA kernels' machine code; needs no GPU."
        ),
    ] = False,
) -> None:
    """The multi-teacher loss against eager PyTorch, torch.compile, Liger-Kernel and the floors."""
    from edufast.bench import kd_loss, kd_loss_model
    from edufast.bench.benchmark import run

    if model:
        return _alone(out, kd_loss_model.main, out)
    with _beside_compiled():
        _alone(out, run, kd_loss.BENCHMARK, quick, out, device_name(device), threads)


def _add(command: str, module: str, told: str) -> None:
    """Add the command of a benchmark that takes the usual options only."""

    def measure(
        quick: QuickOption = False,
        out: BenchOutOption = None,
        device: DeviceOption = "auto",
        threads: ThreadsOption = None,
    ) -> None:
        from edufast.bench.benchmark import run

        benchmark = importlib.import_module(f"edufast.bench.{module}").BENCHMARK
        with _beside_compiled():
            _alone(out, run, benchmark, quick, out, device_name(device), threads)

    measure.__name__, measure.__doc__ = f"bench_{module}", told
    bench.command(command)(computes(measure))


_add("dist", "dist_loss", "DIST against eager PyTorch, torch.compile and the floor.")
_add(
    "min-norm",
    "min_norm",
    "AEKD's weights against PyTorch, eager and compiled, with SciPy's solver, and the floor.",
)
_add(
    "merge",
    "merge",
    "Merging parameter lists beside torch._foreach, a Python loop, timm's EMA and the floor.",
)
_add("augment", "augment", "Batches of augmented images beside PyTorch's operators and a copy.")


@bench.command("train")
@computes
def bench_train(
    quick: Annotated[
        bool, typer.Option("--quick", help="One pair, one batch size: under two minutes.")
    ] = False,
    pairs: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--pairs"),
            help="Which teacher-student pairs, comma-separated (default: all).",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--batch"),
            help="Batch sizes, comma-separated (default: 64,256; on a GPU also 1024).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=out_path,
            help="Folder for JSON, Markdown and plot; existing results are not repeated.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Instead, write a trace and a plot of one step.")
    ] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Instead, compare the accuracies they reach.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of students, with --accuracy.")] = 3,
) -> None:
    """Training steps against a plain loop, a careful one and the arithmetic alone."""
    from edufast.bench import train
    from edufast.bench.benchmark import run

    where = device_name(device)
    which = (_listed(pairs or ""), _positive_integers("--batch", batch or ""))
    with _beside_compiled():
        if accuracy:
            _alone(out, train.main_accuracy, out, where, threads, seeds)
        elif profile:
            _alone(out, train.main_profile, out, where, threads, *which)
        else:
            contests = train.cases(quick, where, *which)
            _alone(out, run, train.BENCHMARK, quick, out, where, threads, contests)


@bench.command("edge")
@computes
def bench_edge(
    where: Annotated[
        Path,
        typer.Argument(
            parser=path_of("where"), help="A run folder, a bundle, or an exported .onnx file."
        ),
    ],
    tables: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=path_of("tables"),
            help="Output of a bundle's bench.py on a device, to be added to the run's report.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=out_path, help="File for the results."),
    ] = None,
) -> None:
    """Latency and memory of exported files on this machine, or read back from a device.

    On the device, with only numpy and onnxruntime: python bench.py student.onnx >
    board.jsonl. Then, here: edufast bench edge runs/RUN board.jsonl
    """
    from edufast.bench import edge

    edge.main(where, tables or [], out)


@bench.command("export")
@computes
def bench_export(quick: QuickOption = False, out: BenchOutOption = None) -> None:
    """Exported files against the model in PyTorch, one image on one CPU thread."""
    from edufast.bench import export
    from edufast.bench.benchmark import run

    _alone(out, run, export.BENCHMARK, quick, out, "cpu", 1)


@bench.command("all")
@computes
def bench_all(
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version of each: a few minutes.")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write one page with everything, index.html.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=out_path,
            help="Folder for the results (default: bench); existing results are not repeated.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Every benchmark, one after the other; continues where it was stopped."""
    from edufast.bench import book

    folder = out or Path("bench")
    where = device_name(device)
    _alone(folder, book.main, quick, html, folder, where, threads, say)


@bench.command("diff")
@computes
def bench_diff(
    before: Annotated[
        Path, typer.Argument(parser=path_of("before"), help="Folder written by a benchmark.")
    ],
    after: Annotated[
        Path, typer.Argument(parser=path_of("after"), help="Another, from the same machine.")
    ],
) -> None:
    """What became slower or faster between two folders, beyond noise.

    Noise is estimated from the other libraries, whose code is the same in both.
    Exit code 1: something became slower.
    """
    from edufast.bench import diff

    changes = diff.compare(before, after)
    for line in diff.lines(changes):
        typer.echo(visible(line))
    if any(change.is_regression for change in changes):
        raise typer.Exit(1)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _positive_integers(option: str, text: str) -> list[int]:
    found = []
    for part in _listed(text):
        number = decimal(part)
        if not number:
            raise UserError(f"{option}: {part!r}; expected positive integers, comma-separated")
        found.append(number)
    return found
