"""Predictions by an exported file are those of the School's validation on the same pictures."""

from __future__ import annotations

import json
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edufast
from edufast.data import DataSet, Loader, load_dataset
from edufast.data.image_files import UnreadableImage
from edufast.data.pictures import read_picture
from edufast.edge import predict as module
from edufast.edge.export import export
from edufast.edge.predict import ExportedModel, Prediction, predict
from edufast.edge.seal import sealed
from edufast.edge.trained import export_trained
from edufast.models.weights import ModelInfo
from edufast.training.evaluation import evaluate_on
from edufast.utils.errors import UserError
from tests.data.odd_pictures import smooth, write_odd_pictures
from tests.tiny import tiny_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@dataclass
class Trained:
    """A model of three classes in an order of its own, its data, and the run folder."""

    model: nn.Module
    info: ModelInfo
    data: DataSet
    run: Path

    @property
    def file(self) -> Path:
        return self.run / "student.onnx"

    def validated(self) -> dict[Path, np.ndarray]:
        """Probabilities of every validation picture, as School validates."""
        loader = Loader(
            self.data.val,
            batch_size=8,
            image_size=self.data.image_size,
            mean=self.data.mean,
            std=self.data.std,
        )
        with torch.no_grad():
            found = [self.model(batch.images).softmax(1) for batch in loader.epoch(0)]
        return dict(zip(self.data.val.images, torch.cat(found).numpy(), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Random weights, with logits so large that another view of a picture changes them."""
    root = tmp_path_factory.mktemp("trained")
    for label, (height, width) in enumerate([(40, 61), (70, 33), (24, 24)]):
        for part, count in (("train", 4), ("val", 9)):
            folder = root / "pictures" / part / f"c{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                smooth(height, width, 100 * count + 10 * label + number).save(
                    folder / f"{number}.png"
                )
    write_odd_pictures(root / "pictures" / "val" / "c1")
    data = load_dataset(str(root / "pictures"), image_size=32)
    torch.manual_seed(0)
    model = tiny_model(3)
    loader = Loader(data.train, batch_size=12, image_size=32, mean=data.mean, std=data.std)
    model(next(loader.epoch(0)).images)  # for the running statistics
    with torch.no_grad():
        model[-1].weight *= 200
    info = ModelInfo.describe("tiny", data, [2, 0, 1], 0.5, 0, 0.0)
    (root / "run").mkdir()
    export_trained(model.eval(), info, data, {"onnx": root / "run" / "student.onnx"})
    return Trained(model, info, data, root / "run")


def test_predictions_are_those_of_validation(trained) -> None:
    """Of pictures of every format and orientation, and many sizes."""
    expected = trained.validated()
    found = list(predict(trained.file, trained.data.val.images))
    assert [p.picture for p in found] == list(expected) and len(found) > 30
    for prediction in found:
        np.testing.assert_allclose(
            prediction.probabilities, expected[prediction.picture], atol=0.02, rtol=0
        )
        assert prediction.classes == ("c2", "c0", "c1")
    right = [p.name == p.picture.parent.name for p in found]
    measured = evaluate_on(trained.model, trained.data, trained.info.class_map)
    assert np.mean(right) == pytest.approx(measured.overall) and 0 < measured.overall < 1


def test_a_run_folder_stands_for_its_student_and_a_folder_for_its_pictures(trained) -> None:
    folder = Path(trained.data.name) / "val" / "c0"
    found = list(edufast.predict(str(trained.run), str(folder)))
    assert [p.picture.name for p in found] == [f"{n}.png" for n in range(9)]
    (again,) = predict(trained.file, [folder / "1.png"])
    np.testing.assert_allclose(again.probabilities, found[1].probabilities, atol=1e-5)


def test_the_most_probable_classes_come_first() -> None:
    said = Prediction(
        Path("a.png"), ("a", "b", "c"), np.array([0.25, 0.5, 0.25], np.float32), 1.0, None
    )
    assert (said.name, said.probability) == ("b", 0.5)
    assert said.top(2) == [("b", 0.5), ("a", 0.25)]
    assert [name for name, _ in said.top(9)] == ["b", "a", "c"]


def test_pictures_that_cannot_be_decoded_are_named_after_the_others(trained, tmp_path) -> None:
    for number in range(40):  # more than a batch
        smooth(20, 20, number).save(tmp_path / f"{number:02}.png")
    for name in ("03.png", "39.png"):
        (tmp_path / name).write_bytes(b"")
    found = []
    with pytest.raises(UnreadableImage) as caught:
        for prediction in predict(trained.file, tmp_path):
            found.append(prediction.picture.name)
    assert len(found) == 38 and found == sorted(found) and not {"03.png", "39.png"} & {*found}
    assert str(caught.value) == (
        f"2 image files: {tmp_path / '03.png'}, {tmp_path / '39.png'}: cannot be read or decoded"
    )


def test_large_pictures_of_a_batch_are_not_all_in_memory_at_once(
    trained, tmp_path, monkeypatch
) -> None:
    for number in range(20):
        smooth(20, 20, number).save(tmp_path / f"{number:02}.png")
    decoded, counts = [], []

    def read(path):
        picture = read_picture(path)
        decoded.append(weakref.ref(picture))
        counts.append(sum(each() is not None for each in decoded))
        return picture

    monkeypatch.setattr(module, "read_picture", read)
    assert len(list(predict(trained.file, tmp_path))) == 20
    assert len(counts) == 20 and max(counts) <= 2


def test_what_is_left_out_of_a_folder_is_counted_in_one_line(trained, tmp_path) -> None:
    smooth(20, 20).save(tmp_path / "a.png")
    (tmp_path / ".b.png").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"")
    expected = "1 pictures are used, 2 entries left out: 1 .txt, 1 hidden"
    with pytest.warns(UserWarning, match=expected):
        list(predict(trained.file, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(predict(trained.file, tmp_path / "a.png"))


def exported(path: Path, **options) -> Path:
    """A small model, as ``options`` of export say."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    export(model, path, input_size=(3, 8, 8), **options)
    return path


BYTES = {"mean": [0.5] * 3, "std": [0.2] * 3, "classes": ["a", "b", "c"]}


def with_metadata(path: Path, **changes: str | None) -> Path:
    """``path`` with entries of its metadata changed, or removed."""
    proto = onnx.load(path)
    entries = {entry.key: entry.value for entry in proto.metadata_props} | changes
    del entries["sha256"]
    del proto.metadata_props[:]
    for key, value in entries.items():
        if value is not None:
            proto.metadata_props.add(key=key, value=value)
    path.write_bytes(sealed(proto.SerializeToString()))
    return path


def rule(**changes: object) -> str:
    return json.dumps({"input": "uint8 NHWC, done inside", **changes})


@pytest.mark.parametrize(
    ("options", "metadata", "message"),
    [
        ({"classes": ["a", "b", "c"]}, {}, "takes normalised images"),
        ({**BYTES, "classes": None}, {}, "has no 'classes' in its metadata"),
        (BYTES, {"classes": None, "preprocessing": None}, "has no 'classes' in its metadata"),
        (BYTES, {"preprocessing": rule()}, "was written by an earlier version"),
        (BYTES, {"preprocessing": rule(resize={"cover": [8, 8]})}, "has no valid metadata"),
        (BYTES, {"preprocessing": "[]"}, "has no valid metadata"),
        (BYTES, {"classes": "a, b"}, "has no valid metadata"),
        (BYTES, {"classes": "[" * 100_000}, "has no valid metadata"),
        (BYTES, {"classes": '["a", "b"]'}, "to the classes that its metadata names"),
    ],
    ids=range(9),
)
def test_a_file_that_predicts_no_pictures_gets_one_line(options, metadata, message, tmp_path):
    path = with_metadata(exported(tmp_path / "m.onnx", **options), **metadata)
    with pytest.raises(UserError) as caught:
        ExportedModel(path)
    said = str(caught.value)
    assert said.startswith(f"{path} ") and message in said and "\n" not in said
    assert "expected" in said or "export it again" in said


def test_a_file_of_another_size_than_it_says_gets_one_line(tmp_path) -> None:
    size = {"cover": [9, 9], "crop": [9, 9]}
    path = with_metadata(exported(tmp_path / "m.onnx", **BYTES), preprocessing=rule(resize=size))
    with pytest.raises(UserError, match=r"\[8, 8, 3\]\)\] to \[\[3\]\]; expected .*\[9, 9, 3\]"):
        ExportedModel(path)


def test_a_damaged_file_gets_one_line(tmp_path) -> None:
    path = exported(tmp_path / "m.onnx", **BYTES)
    ExportedModel(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx is damaged, or was changed since"):
        ExportedModel(path)


def test_what_is_no_onnx_file_gets_one_line(tmp_path) -> None:
    (tmp_path / "text.onnx").write_text("no")
    for name, message in (
        ("text.onnx", "text.onnx cannot be loaded; expected an .onnx file: "),
        ("nowhere.onnx", "does not exist; expected an .onnx file or a run folder"),
        (".", "has no student.onnx; write it with: edufast export"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            predict(tmp_path / name, "a.png")
        assert "\n" not in str(caught.value)
