"""What every format promises, checked for all that are registered."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from edufast.edge.export import export
from edufast.edge.registry import FORMATS, installed_formats
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, reference

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in installed_formats():
        pytest.skip("its packages are not installed")
    return request.param


@pytest.fixture
def path(name: str, model: nn.Module, samples, calibration, answers, tmp_path):
    path = tmp_path / f"student{FORMATS[name].SUFFIX}"
    export(
        model, path, to=name, input_size=SIZE, classes=CLASSES, mean=MEAN, std=STD,
        samples=samples, labels=answers, calibration=calibration, max_drop=20,
    )  # fmt: skip
    return path


def test_bytes_become_logits_at_any_batch_size_on_any_number_of_threads(
    name: str, path, model, samples
) -> None:
    expected = reference(model, samples)
    for threads in (1, 2, None):
        run = FORMATS[name].runner(path, threads)
        for batch in (1, 3, 70):
            logits = run(samples[:batch])
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, expected[:batch], atol=0.05)


def test_the_versions_are_of_packages_that_are_installed(name: str) -> None:
    assert all(version[0].isdigit() for version in FORMATS[name].versions().values())


def test_names_of_files_differ_between_formats() -> None:
    suffixes = [form.SUFFIX for form in FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes) and all(s.startswith(".") for s in suffixes)
