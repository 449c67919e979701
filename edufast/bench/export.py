"""Exported files compared with the model in PyTorch: one image on one thread of the CPU.

Of the formats, those whose packages are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from edufast.bench.benchmark import Benchmark, Report
from edufast.bench.contests import contests_table
from edufast.bench.timing import Candidate, measure
from edufast.edge.export import Wanted, export_all
from edufast.edge.original import Original
from edufast.edge.parity import Run
from edufast.edge.registry import FORMATS, find_format, installed_formats
from edufast.models.zoo import create_model
from edufast.utils.files import atomic_write

SIZE, CLASSES, IMAGES = 32, 10, 64
MODELS = ("resnet8", "resnet20", "mobilenetv2_half", "resnet110")


def title(result: dict[str, Any]) -> str:
    """Of a contest."""
    return f"{result['model']}, one image of {SIZE} pixels"


def measurer(quick: bool, device: str, _: Report) -> Callable[[str], dict[str, Any]]:
    """A function that measures an untrained model, by its name; times in seconds.

    The files are verified as every export is, on random images: for speed and size it does not
    matter what a network has learned, and integers may lose any accuracy here.

    Raises:
        UserError: a package that ONNX files need is missing.
    """
    find_format("onnx")
    return partial(_measure_model, seconds=0.4 if quick else 1.0)


def _measure_model(name: str, *, seconds: float) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return _measure_files(name, Path(folder), seconds)


def _measure_files(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    samples, calibration = generator.integers(0, 256, (2, IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    original = Original.of(
        create_model(name, CLASSES),
        input_size=(3, SIZE, SIZE),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        samples=samples,
        labels=generator.integers(0, CLASSES, IMAGES),
        calibration=calibration,
    )
    paths = {form: folder / (name + FORMATS[form].SUFFIX) for form in installed_formats()}
    wanted = [Wanted(original, form, path) for form, path in paths.items()]
    reports = {report.format: report for report in export_all(wanted, max_drop=100)}
    runs = {form: FORMATS[form].runner(path, threads=1) for form, path in paths.items()}
    compiled = replace(original, model=nn.Sequential(original.model))
    compiled.model.compile()
    contestants = {"PyTorch": original.run, "PyTorch, compiled": compiled.run, **runs}
    candidates: dict[str, Candidate] = {
        form: partial(_answer, run, original.images[:1]) for form, run in contestants.items()
    }
    timings = measure(candidates, device="cpu", sets=1, seconds=seconds)
    return {
        "results": {
            form: {
                **asdict(timing),
                "speedup_over_torch": timings["PyTorch"].median / timing.median,
                "bytes": reports[form].bytes if form in reports else None,
            }
            for form, timing in timings.items()
        },
    }


def _answer(run: Run, image: Any, _: int) -> object:
    return run(image)


def table(results: Sequence[dict[str, Any]]) -> Table:
    """A line for every model and format."""
    columns = {"x\nPyTorch": "{speedup_over_torch:.1f}".format_map, "kB": _kilobytes}
    return contests_table("exported files", "model, format", results, title, columns)


def _kilobytes(numbers: dict[str, Any]) -> str:
    return "" if numbers["bytes"] is None else f"{numbers['bytes'] / 1e3:.0f}"


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Latency against the size of the file: a marker for each format, a line for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name in FORMATS if name in results[0]["results"]]
    for r in results:
        points = sorted(_point(r["results"][name]) for name in names)
        axes.plot(*zip(*points, strict=True), color="lightgrey", zorder=1)
        axes.annotate(r["model"], points[-1], (8, -3), textcoords="offset points", fontsize=9)
    for name, marker in zip(names, "osD^v<>", strict=False):
        points = [_point(r["results"][name]) for r in results]
        axes.plot(*zip(*points, strict=True), marker, label=name, markersize=6, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="file in kB", ylabel="ms for one image, one thread")
    axes.xaxis.set_major_formatter("{x:g}")
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which("{x:g}")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def _point(numbers: dict[str, Any]) -> tuple[float, float]:
    return numbers["bytes"] / 1e3, numbers["median"] * 1e3


def _illustrate(folder: Path, _: object, results: Sequence[dict[str, Any]]) -> None:
    with atomic_write(folder / "export.png") as path:
        plot(results, path)


BENCHMARK = Benchmark(
    "export",
    "Exported files, one image on one thread",
    "Latency against the size of the file.",
    rivals=("PyTorch",),
    cases=lambda quick, _: MODELS[:2] if quick else MODELS,
    known=lambda model: {"model": model},
    title=title,
    measurer=measurer,
    shown=lambda results: [
        table(results),
        "Untrained models; each file was verified, and is not kept.",
    ],
    illustrate=_illustrate,
    one_thread=True,  # as on a device
)
