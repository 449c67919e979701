"""The .tflite file of 8-bit integers: what is quantised, and when it is not written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge.export import export
from edufast.edge.parity import ExportError
from edufast.edge.tflite import read_metadata
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, reference

pytest.importorskip("litert_torch")

OPTIONS = {
    "to": "litert-int8", "input_size": SIZE, "classes": CLASSES, "mean": MEAN, "std": STD,
}  # fmt: skip


@pytest.fixture(scope="module")
def quantised(model, samples, calibration, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "student.int8.tflite"
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    return path, export(model, path, max_drop=20, **images, **OPTIONS)


def test_it_says_how_it_was_quantised(quantised) -> None:
    said = read_metadata(quantised[0])
    assert said["quantisation"]["calibration_images"] == 64
    assert said["classes"] == CLASSES and "ai-edge-quantizer" in said["versions"]


def test_weights_take_a_byte_each(samples, calibration, tmp_path) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(576, 256), nn.ReLU(), nn.Linear(256, len(CLASSES)))
    weights = sum(p.numel() for p in wide.parameters())
    images = {"samples": samples, "labels": reference(wide, samples).argmax(1)}
    path = tmp_path / "student.int8.tflite"
    report = export(wide, path, max_drop=20, calibration=calibration, **images, **OPTIONS)
    assert weights < report.bytes < 1.3 * weights  # of float32 four times as much
    assert report.parity.agreement > 0.9


def test_quantising_again_gives_the_same_bytes(
    quantised, model, samples, calibration, answers, tmp_path
) -> None:
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    export(model, tmp_path / "again.tflite", max_drop=20, **images, **OPTIONS)
    assert (tmp_path / "again.tflite").read_bytes() == quantised[0].read_bytes()


def test_ranges_are_those_of_all_images_in_whatever_order(
    quantised, model, samples, calibration, answers, tmp_path
) -> None:
    images = {"samples": samples, "labels": answers, "calibration": calibration[::-1].copy()}
    export(model, tmp_path / "again.tflite", max_drop=20, **images, **OPTIONS)
    assert (tmp_path / "again.tflite").read_bytes() == quantised[0].read_bytes()


def test_what_loses_too_much_is_not_written(model, samples, answers, calibration, tmp_path) -> None:
    """Ranges of images that are unlike the samples: their colours are cut off."""
    path = tmp_path / "student.int8.tflite"
    dark = (calibration // 8).astype(np.uint8)
    with pytest.raises(ExportError, match="points of accuracy"):
        export(model, path, samples=samples, labels=answers, calibration=dark, **OPTIONS)
    assert not path.exists()
