"""What there is to measure, in the order in which ``edufast bench all`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edufast.bench import augment, export, kd_loss, merge, train
from edufast.bench.timing import machine
from edufast.bench.train import show


@dataclass(frozen=True)
class Benchmark:
    """A measurement of something of EduFast beside rivals, code that it does not contain.

    Attributes:
        name: of its files, ``<name>.json`` and ``<name>.png``.
        heading: what is measured.
        caption: of its plot.
        run: measures (quick, folder, device, threads), prints tables and writes the files.
        title: names a contest, one of its results.
        rivals: what the names of other people's implementations begin with.
        one_thread: always of the CPU, whatever is asked for.
    """

    name: str
    heading: str
    caption: str
    run: Callable[[bool, Path, str, int | None], None]
    title: Callable[[dict[str, Any]], str]
    rivals: tuple[str, ...]
    one_thread: bool = False

    def machine(self, device: str, threads: int | None) -> dict[str, Any]:
        """The description that its results will have."""
        return machine("cpu", 1) if self.one_thread else machine(device, threads)

    def is_rival(self, implementation: str) -> bool:
        return implementation.startswith(self.rivals)


def _export(quick: bool, out: Path, device: str, threads: int | None) -> None:
    export.main(quick, out)  # on one thread of the CPU, as on a device


BENCHMARKS = (
    Benchmark(
        "kd_loss",
        "The loss of several teachers, with its gradient (B x C, K, type, weights)",
        "Times as multiples of the floor, the larger of copying as many bytes and of computing one "
        "exponential a logit.",
        kd_loss.main,
        kd_loss.title,
        ("eager", "compile", "liger"),
    ),
    Benchmark(
        "merge",
        "Merging lists of parameters",
        "Bandwidth as a share of a copy's whose stores go past the caches.",
        merge.main,
        merge.title,
        ("foreach", "loop", "timm"),
    ),
    Benchmark(
        "augment",
        "Batches of augmented images",
        "Bandwidth as a share of a copy's.",
        augment.main,
        augment.title,
        ("eager",),
    ),
    Benchmark(
        "train",
        "Training steps, time for each image",
        "Beside the plain loop of popular repositories, a careful one, and arithmetic alone.",
        train.main,
        show.title,
        ("(a)", "(b)", "floor"),
    ),
    Benchmark(
        "export",
        "Exported files, one image on one thread",
        "Latency against the size of the file.",
        _export,
        export.title,
        ("PyTorch",),
        one_thread=True,
    ),
)
