"""Exporting a model that EduFast trained: its description has all that the device needs."""

from __future__ import annotations

import statistics
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edufast.data import ClassSampler, DataSet, Loader, Samples
from edufast.edge.export import ExportReport, export
from edufast.edge.runtime import load_onnxruntime
from edufast.models.weights import ModelInfo
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

VERIFY_SAMPLES = 256  # validation images on which an export is compared with PyTorch


def export_trained(
    model: nn.Module, info: ModelInfo, data: DataSet | None, path: Path
) -> ExportReport:
    """Export ``model`` including its preprocessing, verified on images of ``data`` if given.

    Raises:
        UserError, ValueError, ExportError: as :func:`edufast.edge.export.export`.
    """
    images, labels = validation_images(data, info) if data is not None else (None, None)
    return export(
        model,
        path,
        input_size=(3, info.image_size, info.image_size),
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        samples=images,
        labels=labels,
    )


def validation_images(
    data: DataSet, info: ModelInfo, count: int = VERIFY_SAMPLES
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """At most ``count`` validation images, spread over the classes that the model knows.

    Returns:
        The images (N, H, W, 3) uint8, cropped and resized as in validation; and (N,) int64, the
        position of each image's class among the model's logits.

    Raises:
        UserError: there is no image of a class that the model knows.
    """
    missing = sorted(set(info.class_ids) - set(data.val.labels.tolist()))
    if missing:
        raise UserError(
            f"{data.name} has no validation image of class {missing[0]}, which the model knows; "
            "expected the data set that it was trained on"
        )
    known = ClassSampler(data.val.labels, info.class_ids)(0)
    index = known[np.linspace(0, len(known) - 1, min(count, len(known))).astype(int)]
    images = data.val.images
    chosen = images[index] if isinstance(images, np.ndarray) else tuple(images[i] for i in index)
    loader = Loader(
        Samples(chosen, data.val.labels[index]),
        batch_size=len(index),
        image_size=info.image_size,
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
    )
    batch = next(loader.epoch(0))
    pixels = batch.images.permute(0, 2, 3, 1).round().clamp(0, 255).byte().numpy()
    return pixels, info.class_map.positions()[batch.labels].numpy()


def write_script(folder: Path) -> Path:
    """Write predict.py into a run folder: it predicts pictures with student.onnx without EduFast.

    Returns:
        The script.
    """
    script = folder / "predict.py"
    with atomic_write(script) as temporary:
        temporary.write_bytes(files("edufast.edge").joinpath("standalone.py").read_bytes())
    return script


def latency(path: Path, image_size: int, runs: int = 50) -> float:
    """Median time in milliseconds that onnxruntime takes for one uint8 image on one thread."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = np.zeros((1, image_size, image_size, 3), np.uint8)
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        session.run(None, {"image": image})
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)
