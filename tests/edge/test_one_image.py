"""What .pte and .tflite files share: their content, that they are reproducible, what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edufast
from edufast.edge.export import export, verify
from edufast.edge.one_image import example, exporting, undamaged
from edufast.edge.parity import ExportError
from edufast.edge.registry import FORMATS
from edufast.edge.seal import sealed
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, normalised, reference
from tests.edge.students import DATA, original

PACKAGES = {"executorch": "executorch", "litert": "litert_torch"}


@pytest.fixture(scope="module", params=PACKAGES)
def name(request) -> str:
    """Of the float32 format."""
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"{PACKAGES[request.param]} is not installed")
    return request.param


@pytest.fixture
def form(name):
    return FORMATS[name]


@pytest.fixture
def path(form, tmp_path):
    return tmp_path / f"student{form.SUFFIX}"


@pytest.fixture(scope="module")
def written(name, model, samples, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp(name) / f"student{FORMATS[name].SUFFIX}"
    report = export(
        model, path, samples=samples, labels=answers, mean=MEAN, std=STD,
        metadata={"recipe": "digits"}, **options(name),
    )  # fmt: skip
    return path, report


@pytest.fixture(scope="module")
def quantised(name, model, samples, calibration, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp(name) / f"student.int8{FORMATS[name].SUFFIX}"
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    export(model, path, max_drop=20, **images, **integers(name))
    return path


def options(name: str):
    return {"to": name, "input_size": SIZE, "classes": CLASSES}


def integers(name: str):
    return options(f"{name}-int8") | {"mean": MEAN, "std": STD}


# --- what they share -----------------------------------------------------------------------------


def test_a_program_is_called_with_a_copy_of_one_image() -> None:
    (image,) = example(original())
    assert image.shape == (1, 16, 16, 3) and (image[0].numpy() == DATA.val.images[0]).all()
    image.zero_()
    assert DATA.val.images[0].any()


def test_what_fails_is_one_line_with_its_cause() -> None:
    with (
        pytest.raises(ExportError, match=r"^The runtime cannot take this model: KeyError: 'x'$"),
        exporting("The runtime"),
    ):
        try:
            raise KeyError("x")
        except KeyError as error:
            raise RuntimeError("pages\nof advice") from error


def test_a_file_is_read_if_it_is_whole(tmp_path) -> None:
    path = tmp_path / "student.x"
    path.write_bytes(sealed(b"program"))
    assert undamaged(path) == sealed(b"program")
    path.write_bytes(sealed(b"program")[:-1])
    with pytest.raises(ExportError, match=r"student.x is damaged, or edufast did not write it"):
        undamaged(path)


# --- float32 -------------------------------------------------------------------------------------


def test_it_says_what_it_is_and_how_it_does(written, name, form) -> None:
    path, report = written
    said = form.read_metadata(path)
    assert said["classes"] == CLASSES and said["recipe"] == "digits"
    assert said["preprocessing"]["mean"] == MEAN and said["versions"] == form.versions()
    assert report.opset is None and report.to_dict()["format"] == name
    assert report.alone.runtime.lower().startswith(f"{form.RUNTIME} ".lower())
    assert report.alone.peak_bytes > report.alone.runtime_bytes > 0


def test_exporting_again_gives_the_same_bytes_with_no_trace_of_the_machine(
    written, name, model, path
) -> None:
    export(model, path, mean=MEAN, std=STD, metadata={"recipe": "digits"}, **options(name))
    content = path.read_bytes()
    assert content == written[0].read_bytes()
    for word in (str(Path(__file__).parent), str(Path(torch.__file__).parent), ".py"):
        assert word.encode() not in content


def test_without_constants_images_come_normalised(name, form, model, samples, path) -> None:
    images = normalised(samples).numpy()
    export(model, path, samples=images, **options(name))
    found = form.runner(path)(images[:3])
    np.testing.assert_allclose(found, reference(model, samples[:3]), atol=1e-4)


def test_a_model_that_cannot_be_traced_is_one_line_and_no_file(name, form, path) -> None:
    class Branches(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(ExportError, match=f"^{form.RUNTIME} cannot take this model: ") as caught:
        export(Branches(), path, **(options(name) | {"classes": None}))
    assert "\n" not in str(caught.value) and not path.exists()


def test_what_is_no_program_is_refused(form, path) -> None:
    path.write_bytes(sealed(b"no program at all, not even a header of one" * 9))
    with pytest.raises(ExportError, match=rf"^{form.RUNTIME} cannot load .*{path.name}: "):
        form.runner(path)


@pytest.mark.parametrize("at", [0, 1000, -100, -1])
def test_a_flipped_bit_is_noticed(written, form, path, at: int) -> None:
    content = bytearray(written[0].read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    for read in (form.runner, form.read_metadata):
        with pytest.raises(ExportError, match=rf"{path.name} is damaged"):
            read(path)


def test_the_script_measures_it_with_the_golden_images_and_says_nothing_else(
    written, samples, path
) -> None:
    script = Path(edufast.__file__).parent / "edge" / "device.py"
    path.write_bytes(written[0].read_bytes())
    np.savez(path.parent / "golden.npz", images=samples[:4])
    command = [sys.executable, script, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["file"] == path.name and row["sha256"] == written[1].alone.sha256
    assert row["median_ms"] > 0 and row["load_ms"] > 0 and not done.stderr


def test_another_model_under_the_same_name_is_noticed(
    written, name, model, samples, answers
) -> None:
    """Verification compares what the file computes, not what was to be written."""
    other = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SIZE)), len(CLASSES)))
    compared = {"to": name, "labels": answers, "mean": MEAN, "std": STD}
    with pytest.raises(ExportError, match="agree"):
        verify(other, written[0], samples, **compared)
    verify(model, written[0], samples, **compared)


# --- 8-bit integers ------------------------------------------------------------------------------


def test_it_says_how_it_was_quantised(quantised, name, form) -> None:
    said = form.read_metadata(quantised)
    assert said["quantisation"]["calibration_images"] == 64
    assert said["classes"] == CLASSES and said["versions"] == FORMATS[f"{name}-int8"].versions()


def test_weights_take_a_byte_each(name, samples, calibration, path) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(576, 256), nn.ReLU(), nn.Linear(256, len(CLASSES)))
    weights = sum(p.numel() for p in wide.parameters())
    images = {"samples": samples, "labels": reference(wide, samples).argmax(1)}
    report = export(wide, path, max_drop=20, calibration=calibration, **images, **integers(name))
    assert weights < report.bytes < 1.3 * weights  # of float32 four times as much
    assert report.parity.agreement > 0.9


def test_quantising_again_gives_the_same_bytes(
    quantised, name, model, samples, calibration, answers, path
) -> None:
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    export(model, path, max_drop=20, **images, **integers(name))
    assert path.read_bytes() == quantised.read_bytes()


def test_what_loses_too_much_is_not_written(
    name, model, samples, answers, calibration, path
) -> None:
    """Ranges of images that are unlike the samples: their colours are cut off."""
    dark = (calibration // 8).astype(np.uint8)
    with pytest.raises(ExportError, match="points of accuracy"):
        export(model, path, samples=samples, labels=answers, calibration=dark, **integers(name))
    assert not path.exists()
