"""Exporting a model that EduFast trained: its description has all that the device needs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edufast.data import ClassSampler, DataSet
from edufast.edge import MAX_DROP
from edufast.edge.exit_choice import Target
from edufast.edge.export import ExportReport, Wanted, check_request, export_all
from edufast.edge.format import OnnxFormat
from edufast.edge.original import Original
from edufast.edge.registry import FORMATS
from edufast.edge.split_images import SplitImages
from edufast.models.weights import ModelInfo
from edufast.student.student import Student
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

CALIBRATION_IMAGES = 256  # of the training split, of which MIN_IMAGES have to be different


def export_trained(
    model: nn.Module,
    info: ModelInfo,
    data: DataSet | None,
    paths: Mapping[str, Path],
    max_drop: float = MAX_DROP,
    exits: Student | None = None,
    early: Target | None = None,
) -> list[ExportReport]:
    """Export ``model`` including its preprocessing in each format of ``paths``, or in none.

    Files are verified on the validation split of ``data`` if given, and calibrated on its training
    split.

    Args:
        exits: the student whose graduate ``model`` is: beside ``student.onnx``, its smaller
            students go to ``student-exit1.onnx`` and so on, in the order of their size.
        early: what early exits may cost: beside it, ``student-early.onnx`` ends where it is sure.

    Raises:
        UserError, ValueError, ExportError: as :func:`edufast.edge.export.export`; or ``early`` is
            asked of a student without exits.
    """
    check_request(paths, max_drop)
    depths = () if exits is None else exits.depths[:-1]
    if early is not None and not depths:
        raise UserError(
            "--early-exit needs a student with exits; expected the folder of a finished run with "
            "several grades and curriculum.exit_weight above 0"
        )
    branching = [name for name in paths if isinstance(FORMATS[name], OnnxFormat)]
    if early is not None and not branching:
        raise UserError(
            "--early-exit needs programs that branch; expected onnx or onnx-int8 among the "
            f"formats, not only {', '.join(paths)}"
        )
    images = labels = calibration = None
    if data is not None:
        images, labels = known_images(data, "validation", info)
        if any(FORMATS[name].INTEGERS for name in paths):
            calibration = known_images(data, "training", info, CALIBRATION_IMAGES)[0][:]
    described = partial(
        Original.of,
        input_size=(3, info.image_size, info.image_size),
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        samples=images,
        labels=labels,
        calibration=calibration,
    )
    original = described(model)
    smaller = {depth: described(exits.graduate(depth)) for depth in depths if exits is not None}
    files = []
    for name, path in paths.items():
        files.append(Wanted(original, name, path))
        files += [
            Wanted(part, name, _beside(path, f"exit{depth}"), exit=depth)
            for depth, part in smaller.items()
        ]
        if exits is not None and early is not None and name in branching:
            files.append(Wanted(original, name, _beside(path, "early"), early=(exits, early)))
    return export_all(files, max_drop)


def _beside(path: Path, part: str) -> Path:
    """``student-exit1.int8.onnx`` for ``student.int8.onnx``."""
    stem, dot, suffixes = path.name.partition(".")
    return path.with_name(f"{stem}-{part}{dot}{suffixes}")


def known_images(
    data: DataSet,
    split: Literal["training", "validation"],
    info: ModelInfo,
    count: int | None = None,
) -> tuple[SplitImages, NDArray[np.int64]]:
    """The images of the classes that the model knows, of a split: all, or at most ``count``, spread
    over these classes.

    Returns:
        The images, cropped and resized as in validation; and (N,) int64, the position of each
        image's class among the model's logits.

    Raises:
        UserError: a class that the model knows has no image.
    """
    samples = data.train if split == "training" else data.val
    missing = sorted(set(info.class_ids) - set(samples.labels.tolist()))
    if missing:
        raise UserError(
            f"{data.name} has no {split} image of class {missing[0]}, which the model knows; "
            "expected the data set that it was trained on"
        )
    index = ClassSampler(samples.labels, info.class_ids)(0)
    if count is not None:
        index = index[np.argsort(samples.labels[index], kind="stable")]
        index = index[np.linspace(0, len(index) - 1, min(count, len(index))).astype(int)]
    labels = torch.from_numpy(samples.labels[index])
    images = SplitImages(samples, index, info.image_size)
    return images, info.class_map.positions()[labels].numpy()


def write_script(folder: Path) -> Path:
    """Write predict.py into a run folder: it predicts pictures with student.onnx without EduFast.

    Returns:
        The script.
    """
    script = folder / "predict.py"
    with atomic_write(script) as temporary:
        temporary.write_bytes(files("edufast.edge").joinpath("standalone.py").read_bytes())
    return script
