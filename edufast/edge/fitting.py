"""Which students, ended at which exit, fit a device: found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from edufast.edge.calibration import MIN_IMAGES
from edufast.edge.footprint import footprint
from edufast.edge.latency import measure_latency
from edufast.edge.original import Original
from edufast.edge.parity import ExportError
from edufast.edge.registry import find_format
from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.utils.files import naming

STUDENTS = ("resnet8", "resnet14", "resnet20", "mobilenetv2_half", "resnet8x4")
GRADES = 3


@dataclass(frozen=True)
class Budget:
    """What a device has; None: as much as is wanted.

    Attributes:
        flash: bytes of weights.
        ram: bytes of activations.
        latency_ms: of one image on one thread of this machine.
    """

    flash: int | None = None
    ram: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A student, whole or ended at an exit, in one format.

    Attributes:
        model: its name.
        exit: number of fragments, of `GRADES`.
        format: name.
        flops, flash, ram: see :class:`edufast.edge.footprint.Footprint`.
        latency_ms: median here; None: not measured, because it does not fit otherwise.
        fits: all of the budget.
    """

    model: str
    exit: int
    format: str
    flops: int
    flash: int
    ram: int
    latency_ms: float | None
    fits: bool


def candidates(
    models: Sequence[str], classes: int, image_size: int, formats: Sequence[str], budget: Budget
) -> Iterator[Candidate]:
    """Every student, its exits from the first to the whole, in every format. Weights are random:
    they change neither size nor time.

    Raises:
        UserError: there is no such model or format, or the model cannot be cut.
        ExportError: it cannot be exported; the message names it.
    """
    size = (3, image_size, image_size)
    for name in models:
        torch.manual_seed(0)
        student = Student(create_model(name, classes), GRADES, input_size=size)
        for depth in range(1, GRADES + 1):
            student.grow(fragments=depth, classes=classes, keep_exits=True)
        for depth in student.depths:
            model = student.eval().graduate(depth)
            try:
                for form, needs in needed(model, size, formats, budget):
                    yield Candidate(name, depth, form, *needs)
            except ExportError as error:
                raise ExportError(f"{name}, ended at exit {depth}: {error}") from error


class Needs(NamedTuple):
    """What a network takes in a format, see :class:`Candidate`."""

    flops: int
    flash: int
    ram: int
    latency_ms: float | None
    fits: bool


def needed(
    model: nn.Module, size: tuple[int, int, int], formats: Sequence[str], budget: Budget
) -> Iterator[tuple[str, Needs]]:
    """What ``model`` takes as a file of each format, and whether ``budget`` has that. Its latency
    is measured only if it fits otherwise.

    Raises:
        UserError: there is no such format, or the model cannot be traced.
        ExportError: it cannot be exported.
    """
    counted = footprint(model, size)
    for form in formats:
        integers = find_format(form).INTEGERS
        flash, ram = counted.flash(integers=integers), counted.ram(integers=integers)
        fits = _within(flash, budget.flash) and _within(ram, budget.ram)
        latency = _latency(model, size, form) if fits else None
        fits = fits and (latency is None or _within(latency, budget.latency_ms))
        yield form, Needs(counted.flops, flash, ram, latency, fits)


def propose(found: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the most FLOPs that fits (the first of equal ones); None: none fits."""
    fitting = [each for each in found if each.fits]
    return max(fitting, key=lambda each: each.flops) if fitting else None


def _within(value: float, limit: float | None) -> bool:
    return limit is None or value <= limit


def _latency(model: nn.Module, size: tuple[int, int, int], name: str) -> float:
    """Median milliseconds in the format's runtime, on noise."""
    form = find_format(name)
    shape = (MIN_IMAGES, *size[1:], size[0])
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    original = Original.of(
        model, input_size=size, calibration=noise, mean=[0.5] * size[0], std=[0.25] * size[0]
    )
    with TemporaryDirectory() as folder:
        path = Path(folder, f"student{form.SUFFIX}")
        with naming(folder):  # which may be on a small disk of its own
            form.write(original, path, {})
        return measure_latency(partial(form.runner, path, threads=1), noise).median_ms
