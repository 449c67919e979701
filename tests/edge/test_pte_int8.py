"""The .pte file of 8-bit integers: what is quantised, and when it is not written."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.edge.export import export
from edufast.edge.parity import ExportError
from edufast.edge.pte import read_metadata
from tests.edge.cases import CLASSES, MEAN, SIZE, STD

pytest.importorskip("executorch.runtime")

OPTIONS = {
    "to": "executorch-int8", "input_size": SIZE, "classes": CLASSES, "mean": MEAN, "std": STD,
}  # fmt: skip


@pytest.fixture(scope="module")
def quantised(model, samples, calibration, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "student.int8.pte"
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    return path, export(model, path, max_drop=20, **images, **OPTIONS)


def test_it_says_how_it_was_quantised(quantised) -> None:
    said = read_metadata(quantised[0])
    assert said["quantisation"]["calibration_images"] == 64
    assert said["classes"] == CLASSES and "torchao" in said["versions"]


def test_it_is_smaller_than_the_float32_file_and_nearly_as_right(
    quantised, model, samples, answers, tmp_path
) -> None:
    exact = export(
        model, tmp_path / "student.pte", samples=samples, labels=answers,
        **(OPTIONS | {"to": "executorch"}),
    )  # fmt: skip
    report = quantised[1]
    assert report.parity.agreement > 0.9 and report.parity.max_abs_difference > 1e-4
    assert report.bytes < exact.bytes + 4096  # its graph is longer; so few weights are hardly less


def test_quantising_again_gives_the_same_bytes(
    quantised, model, samples, calibration, answers, tmp_path
) -> None:
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    export(model, tmp_path / "again.pte", max_drop=20, **images, **OPTIONS)
    assert (tmp_path / "again.pte").read_bytes() == quantised[0].read_bytes()


def test_what_loses_too_much_is_not_written(model, samples, answers, calibration, tmp_path) -> None:
    """Ranges of images that are unlike the samples: their colours are cut off."""
    path = tmp_path / "student.int8.pte"
    dark = (calibration // 8).astype(np.uint8)
    with pytest.raises(ExportError, match="points of accuracy"):
        export(model, path, samples=samples, labels=answers, calibration=dark, **OPTIONS)
    assert not path.exists()
