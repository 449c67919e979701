"""What exported files answer, image by image, kept and read back."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")
from edufast.data import DataSet, load_dataset
from edufast.edge.seal import sealed
from edufast.edge.trained import export_trained
from edufast.experiments.answers import Answers, ask, keep_answers
from edufast.experiments.events import ExportEvent
from edufast.experiments.run_folder import RunFolder
from edufast.models.weights import ModelInfo
from edufast.models.zoo import create_model
from edufast.training.evaluation import evaluate_on
from edufast.utils.event_log import EventLog
from tests.commands import write_pictures
from tests.tiny import tiny_data


def exported(data: DataSet, folder: Path) -> tuple[torch.nn.Module, ModelInfo, Path]:
    torch.manual_seed(0)
    model = create_model("resnet8", 6).eval()
    info = ModelInfo.describe("resnet8", data, range(6), 0.0, 1, 1.0)
    export_trained(model, info, data, {"onnx": folder / "student.onnx"})
    return model, info, folder / "student.onnx"


def same(a: Answers, b: Answers) -> None:
    assert (a.classes, a.pictures) == (b.classes, b.pictures)
    for name in ("trained", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("chosen", "confidence"):
        np.testing.assert_equal(dict(getattr(a, name)), dict(getattr(b, name)))


def test_they_are_those_of_the_model(tmp_path: Path) -> None:
    data = tiny_data()
    model, info, path = exported(data, tmp_path)
    answers = ask({path: "onnx"}, info, data)
    assert answers.trained.tolist() == [24] * 6 and answers.pictures == ()
    right = (answers.chosen["student.onnx"] == answers.labels).mean()
    assert right == evaluate_on(model, data, info.class_map).overall
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (data.mean, data.std))
    images = torch.from_numpy(data.val.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        confidence = model((images - mean) / std).softmax(1).amax(1)
    order = np.argsort(data.val.labels, kind="stable")
    np.testing.assert_allclose(
        np.sort(answers.confidence["student.onnx"]), np.sort(confidence.numpy()[order]), rtol=1e-4
    )


def test_files_of_pictures_are_named(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    write_pictures(tiny_data(), tmp_path / "pictures")
    data = load_dataset(tmp_path / "pictures", image_size=16)
    _, info, path = exported(data, tmp_path)
    answers = ask({path: "onnx"}, info, data)
    named = [data.classes[label] for label in answers.labels]
    assert [picture.parent.name for picture in answers.pictures] == named
    answers.save(tmp_path / "a.npz")
    same(Answers.load(tmp_path / "a.npz"), answers)


def test_a_file_that_is_damaged_is_left_out_and_named(tmp_path: Path) -> None:
    """As one flipped bit, which might have answered something else."""
    data = tiny_data()
    _, info, path = exported(data, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "other.onnx").write_bytes(content)
    log = EventLog(RunFolder(tmp_path).metrics)
    for name in ("student.onnx", "other.onnx", "gone.onnx"):
        log.write(
            ExportEvent(
                path=name, opset=18, bytes=1, noise=False, samples=1, agreement=1.0,
                max_abs_difference=0.0, accuracy=1.0, latency_ms=1.0, format="onnx",
            )
        )  # fmt: skip
    with pytest.warns(UserWarning, match="other.onnx is damaged and left out; edufast export"):
        keep_answers(RunFolder(tmp_path), info, data)
    answers = Answers.load(RunFolder(tmp_path).answers)
    assert answers is not None and list(answers.chosen) == ["student.onnx"]


def test_a_file_whose_runtime_is_not_installed_is_left_out(tmp_path: Path, monkeypatch) -> None:
    """Somebody exported it; the others are asked all the same."""
    data = tiny_data()
    _, info, _ = exported(data, tmp_path)
    (tmp_path / "student.pte").write_bytes(sealed(b"a program"))
    log = EventLog(RunFolder(tmp_path).metrics)
    for name, form in (("student.onnx", "onnx"), ("student.pte", "executorch")):
        log.write(
            ExportEvent(
                path=name, bytes=1, noise=False, samples=1, agreement=1.0, format=form,
                max_abs_difference=0.0, accuracy=1.0, latency_ms=1.0,
            )
        )  # fmt: skip
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.warns(UserWarning, match=r"student.pte is left out: .* needs executorch: pip"):
        keep_answers(RunFolder(tmp_path), info, data)
    answers = Answers.load(RunFolder(tmp_path).answers)
    assert answers is not None and list(answers.chosen) == ["student.onnx"]


def test_what_is_missing_or_damaged_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert Answers.load(path) is None
    data = tiny_data()
    info = ModelInfo.describe("resnet8", data, range(6), 0.0, 1, 1.0)
    ask({}, info, data).save(path)
    good = path.read_bytes()
    assert Answers.load(path) is not None
    objects = {"classes": np.array([object()]), "trained": 1, "labels": 1, "pictures": 1}
    np.savez(tmp_path / "objects.npz", **objects)  # pickled, and not read
    pickled = (tmp_path / "objects.npz").read_bytes()
    for damaged in (good[:200], b"", b"nothing", pickled):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"a\.npz is damaged and left out"):
            assert Answers.load(path) is None
    # A byte in compressed data, or in how it is compressed, fails in ways of its own.
    warnings.simplefilter("ignore")
    for i in range(0, len(good), 5):
        path.write_bytes(bytes([*good[:i], good[i] ^ 255, *good[i + 1 :]]))
        Answers.load(path)
