"""Exporting a model that EduFast trained: its description has all that the device needs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edufast.data import ClassSampler, DataSet
from edufast.edge import MAX_DROP
from edufast.edge.export import ExportReport, check_request, export_all
from edufast.edge.original import Original
from edufast.edge.registry import FORMATS
from edufast.edge.split_images import SplitImages
from edufast.models.weights import ModelInfo
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

CALIBRATION_IMAGES = 256  # of the training split, of which MIN_IMAGES have to be different


def export_trained(
    model: nn.Module,
    info: ModelInfo,
    data: DataSet | None,
    paths: Mapping[str, Path],
    max_drop: float = MAX_DROP,
) -> list[ExportReport]:
    """Export ``model`` including its preprocessing in each format of ``paths``, or in none.

    Files are verified on the validation split of ``data`` if given, and calibrated on its training
    split.

    Raises:
        UserError, ValueError, ExportError: as :func:`edufast.edge.export.export`.
    """
    check_request(paths, max_drop)
    images = labels = calibration = None
    if data is not None:
        images, labels = known_images(data, "validation", info)
        if any(FORMATS[name].CALIBRATED for name in paths):
            calibration = known_images(data, "training", info, CALIBRATION_IMAGES)[0][:]
    original = Original.of(
        model,
        input_size=(3, info.image_size, info.image_size),
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        samples=images,
        labels=labels,
        calibration=calibration,
    )
    return export_all(original, paths, max_drop)


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
