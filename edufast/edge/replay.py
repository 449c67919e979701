"""Replaying a bundle where it is to be used: .onnx files by onnxruntime, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edufast.edge.contract import GOLDEN, BundledFile, Contract, file_hash
from edufast.edge.device_rows import DeviceRow, measure_here
from edufast.edge.runtime import Program, load_program
from edufast.utils.errors import UserError

# Of the largest logit: what another processor's order of additions may change.
TOLERANCE = 1e-3
# Integers may round an activation to the next step, and change an answer that was close.
MIN_AGREEMENT = 0.9


class ReplayError(RuntimeError):
    """A bundle is damaged, or answers differently from where it was exported."""


@dataclass(frozen=True)
class Replay:
    """How a model of a bundle does on this machine.

    Attributes:
        file: the model.
        images: golden images replayed.
        agreement: share of them with the class that was recorded.
        max_abs_difference: largest absolute difference from a recorded logit.
        alone: the file in a process of its own: its latency over the golden images, and its memory.
        shares: of the golden images that leave after so many of the student's fragments; None: it
            has no early exits.
    """

    file: BundledFile
    images: int
    agreement: float
    max_abs_difference: float
    alone: DeviceRow
    shares: dict[int, float] | None = None


def replay(path: Path) -> list[Replay]:
    """Run the models of a bundle on the golden images.

    A float32 model has to give the recorded logits, but for the order of additions; one of integers
    the recorded class for nine images of ten.

    Args:
        path: the bundle, or one model in it.

    Raises:
        UserError: it is not a bundle, or a runtime is missing.
        ReplayError: a file is missing, damaged or exchanged, or answers otherwise.
    """
    folder = path.parent if path.is_file() else path
    contract = Contract.read(folder)
    models = [file for file in contract.files if path in (folder, folder / file.name)]
    if not models:
        names = ", ".join(file.name for file in contract.files)
        raise UserError(f"{path} is not a model of its bundle; expected one of {names}")
    hashes = contract.hashes
    for name in (GOLDEN, *(file.name for file in models)):
        _check_hash(folder / name, hashes[name])
    programs = [_loaded(folder / file.name) for file in models]  # all, before any is run
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as golden:
            images, recorded = golden["images"], [golden[file.name] for file in models]
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise ReplayError(f"{folder / GOLDEN} lacks answers of a file: {error}") from error
    if not len(images):
        raise ReplayError(f"{folder / GOLDEN} has no images; expected at least one")
    return [
        _replayed(folder / file.name, file, program, images, logits)
        for file, program, logits in zip(models, programs, recorded, strict=True)
    ]


def _check_hash(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ReplayError(f"{path} is missing")
    if file_hash(path) != expected:
        raise ReplayError(f"{path} is damaged or was replaced: its hash does not match")


def _loaded(path: Path) -> Program:
    try:
        return load_program(path, threads=1)
    except UserError:
        raise
    except Exception as error:  # the runtimes' errors share no public base class
        raise ReplayError(f"{path} cannot be run: {error}") from error


def _replayed(
    path: Path,
    file: BundledFile,
    program: Program,
    images: NDArray[Any],
    recorded: NDArray[np.float32],
) -> Replay:
    try:
        found, *left = program(images)
    except Exception as error:
        raise ReplayError(f"{path} cannot be run: {error}") from error
    if found.shape != recorded.shape or found.dtype != recorded.dtype:
        raise ReplayError(
            f"{path} gives logits {found.dtype} {found.shape}; expected "
            f"{recorded.dtype} {recorded.shape}"
        )
    difference = float(np.abs(found - recorded).max())
    agreement = float((found.argmax(1) == recorded.argmax(1)).mean())
    if file.exact and not difference <= TOLERANCE * np.abs(recorded).max():  # NaN, too
        raise ReplayError(
            f"{path} gives logits that differ by up to {difference:g} from those "
            f"recorded; expected at most {TOLERANCE:g} of the largest"
        )
    if not file.exact and not agreement >= MIN_AGREEMENT:
        raise ReplayError(
            f"{path} gives the recorded class for {agreement:.0%} of {len(images)} "
            f"images; expected at least {MIN_AGREEMENT:.0%}"
        )
    shares = {int(d): float((left[0] == d).mean()) for d in np.unique(left[0])} if left else None
    return Replay(file, len(images), agreement, difference, measure_here(path), shares)
