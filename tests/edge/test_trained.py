"""Exporting a trained model file: preprocessing, classes and images follow from its description."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edufast.data import Samples, load_dataset
from edufast.edge import original
from edufast.edge.parity import ExportError
from edufast.edge.preprocess import Preprocessed
from edufast.edge.registry import FORMATS, installed_formats
from edufast.edge.trained import CALIBRATION_IMAGES, export_trained, known_images
from edufast.models.weights import ModelInfo
from edufast.utils.errors import UserError
from tests.commands import write_pictures
from tests.edge.students import DATA as LEARNED
from tests.edge.students import student_with_exits
from tests.tiny import tiny_data, tiny_model

DATA = tiny_data()


def info(class_ids=range(6)) -> ModelInfo:
    return ModelInfo.describe("tiny", DATA, class_ids, 0.5, 0, 0.0)


def test_images_are_spread_over_the_classes_and_labelled_by_position() -> None:
    found, positions = known_images(DATA, "validation", info([4, 0, 2]), count=9)
    images = found[:]
    assert images.shape == (9, 16, 16, 3) and images.dtype == np.uint8
    assert sorted(positions) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    known = {
        image.tobytes(): int(label)
        for image, label in zip(DATA.val.images, DATA.val.labels, strict=True)
    }
    found = [known[image.tobytes()] for image in images]  # untouched by mean and std
    assert [[4, 0, 2][position] for position in positions] == found
    assert len({image.tobytes() for image in images}) == 9


def test_there_are_no_more_images_than_the_classes_have() -> None:
    for count in (100, None):
        images, positions = known_images(DATA, "validation", info([5, 1]), count=count)
        assert len(images) == 16 and (np.bincount(positions) == 8).all()


def test_images_are_spread_over_the_classes_in_whatever_order_they_are_stored() -> None:
    order = np.arange(48).reshape(6, 8).T.reshape(-1)  # one class after the other, again and again
    mixed = replace(DATA, val=DATA.val.subset(order))
    _, positions = known_images(mixed, "validation", info(), count=6)
    assert sorted(positions) == [0, 1, 2, 3, 4, 5]


def test_image_files_are_read_at_the_size_of_the_model(tmp_path) -> None:
    paths = []
    for number, image in enumerate(DATA.val.images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).resize((40, 40), Image.Resampling.NEAREST).save(paths[-1])
    on_disk = replace(DATA, val=Samples(tuple(paths), DATA.val.labels))
    images, positions = known_images(on_disk, "validation", info(), count=12)
    assert images[:].shape == (12, 16, 16, 3) and (np.bincount(positions) == 2).all()


def test_a_class_without_images_is_named_with_its_split() -> None:
    few = replace(DATA, train=DATA.train.subset(np.flatnonzero(DATA.train.labels != 5)))
    assert len(known_images(few, "training", info([0, 4]))[0]) == 48
    with pytest.raises(UserError, match="tiny has no training image of class 5"):
        known_images(few, "training", info([0, 5]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of four classes in an order of their own, and its verified export."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = tiny_model(4).eval()
    path = tmp_path_factory.mktemp("trained") / "student.onnx"
    (report,) = export_trained(model, info([3, 5, 0, 1]), DATA, {"onnx": path})
    return model, report


def test_the_file_takes_bytes_and_names_the_classes(trained) -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    model, report = trained
    assert report.parity.samples == 32 and not report.noise
    texts = {e.key: e.value for e in onnx.load(report.path).metadata_props}
    entries = {key: json.loads(text) for key, text in texts.items() if key != "sha256"}
    assert entries["classes"] == ["c3", "c5", "c0", "c1"]
    assert entries["preprocessing"]["mean"] == list(DATA.mean)
    found, positions = known_images(DATA, "validation", info([3, 5, 0, 1]))
    images = found[:]
    session = onnxruntime.InferenceSession(report.path.read_bytes())
    (logits,) = session.run(None, {"image": images})
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = model((pixels - DATA.mean[0]) / DATA.std[0]).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert report.parity.accuracy_torch == (logits.argmax(1) == positions).mean()


def test_without_data_noise_stands_in_and_the_report_says_so(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 6))
    (report,) = export_trained(model, info(), None, {"onnx": tmp_path / "student.onnx"})
    assert report.noise and report.parity.accuracy_torch is None


def test_ranges_come_from_training_images_and_accuracy_from_validation_images(
    tmp_path, monkeypatch
) -> None:
    originals = []
    monkeypatch.setattr(
        "edufast.edge.trained.export_all",
        lambda files, *_: originals.extend(f.original for f in files),
    )
    paths = {"onnx": tmp_path / "s.onnx", "onnx-int8": tmp_path / "s.int8.onnx"}
    export_trained(tiny_model(6).eval(), info(), DATA, paths)
    (original,) = dict.fromkeys(originals)
    training = {image.tobytes() for image in DATA.train.images}
    validation = {image.tobytes() for image in DATA.val.images}
    used = {image.tobytes() for image in original.calibration}
    assert used == training and not used & validation and len(used) <= CALIBRATION_IMAGES
    assert {image.tobytes() for image in original.samples[:]} == validation


class Unscaled(Preprocessed):
    def forward(self, image):
        return self.model(image.float().permute(0, 3, 1, 2))


class OtherConstants(Preprocessed):
    def __init__(self, model, mean, std) -> None:
        super().__init__(model, [m + 0.5 for m in mean], [s / 4 for s in std])


class ChannelsTakenForRows(Preprocessed):
    def forward(self, image):
        pixels = (image.float() - self.mean) / self.std
        return self.model(pixels.flatten(1).unflatten(1, (3, 16, 16)))


class Upright(Preprocessed):
    """Rows and columns exchanged."""

    def forward(self, image):
        return super().forward(image.transpose(1, 2))


WRONG = Unscaled, OtherConstants, ChannelsTakenForRows, Upright


@pytest.mark.parametrize(
    ("to", "wrong"),
    [
        *product(("onnx", "onnx-int8"), WRONG),
        *product([name for name in FORMATS if "onnx" not in name], WRONG[:1]),
    ],
)
def test_a_file_that_prepares_pictures_wrongly_is_caught_from_image_files_on(
    wrong, to, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("nvidia.dali")
    if to not in installed_formats():
        pytest.skip("its packages are not installed")
    write_pictures(LEARNED, tmp_path / "pictures")
    data = load_dataset(str(tmp_path / "pictures"), image_size=16)
    graduate = student_with_exits().graduate()
    about = ModelInfo.describe("tiny", LEARNED, range(6), 1.0, 0, 0.0)
    paths = {to: tmp_path / f"student{FORMATS[to].SUFFIX}"}
    (report,) = export_trained(graduate, about, data, paths)
    assert report.parity.accuracy_exported == 1.0
    paths[to].unlink()
    monkeypatch.setattr(original, "Preprocessed", wrong)
    with pytest.raises(ExportError, match=r"agrees with the model on|points of accuracy"):
        export_trained(graduate, about, data, paths)
    assert not paths[to].exists()


def test_too_few_training_images_to_calibrate_with_leave_no_file(tmp_path) -> None:
    few = replace(DATA, train=DATA.train.subset(np.arange(0, 144, 3)))
    paths = {"onnx": tmp_path / "s.onnx", "onnx-int8": tmp_path / "s.int8.onnx"}
    with pytest.raises(ValueError, match="calibration: 48 different images; expected at least 64"):
        export_trained(tiny_model(6).eval(), info(), few, paths)
    assert list(tmp_path.iterdir()) == []
