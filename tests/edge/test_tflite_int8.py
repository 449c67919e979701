"""The .tflite file of 8-bit integers: what of it is LiteRT's. The rest is in test_one_image.py."""

from __future__ import annotations

import pytest

from edufast.edge.export import export
from edufast.edge.tflite_int8 import versions
from tests.edge.cases import CLASSES, MEAN, SIZE, STD

pytest.importorskip("litert_torch")


def test_ranges_are_those_of_all_images_in_whatever_order(
    model, samples, calibration, answers, tmp_path
) -> None:
    """LiteRT's own calibration takes moving averages."""
    written = []
    for images in (calibration, calibration[::-1].copy()):
        path = tmp_path / f"{len(written)}.tflite"
        export(
            model, path, to="litert-int8", max_drop=20, input_size=SIZE, classes=CLASSES, mean=MEAN,
            std=STD, samples=samples, labels=answers, calibration=images,
        )  # fmt: skip
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_versions_are_those_that_determine_the_file() -> None:
    found = {"torch", "litert-torch", "litert-converter", "ai-edge-quantizer"}
    assert versions().keys() == found
