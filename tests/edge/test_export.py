"""One exported file: what it takes, what it holds, and that a bad one never reaches the disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge import original
from edufast.edge.export import export, verify
from edufast.edge.parity import ExportError
from edufast.edge.preprocess import Preprocessed, normalise
from edufast.utils.errors import UserError
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, reference
from tests.tiny import Viewing

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def test_report(exported, model, samples) -> None:
    path, report = exported
    assert report.path == path and report.bytes == path.stat().st_size and not report.noise
    labels = np.arange(len(samples)) % len(CLASSES)
    accuracy = float((reference(model, samples).argmax(1) == labels).mean())
    assert report.parity.accuracy_torch == report.parity.accuracy_exported == accuracy
    event = json.loads(json.dumps(report.to_dict()))
    assert event["path"] == "student.onnx"
    assert (event["opset"], event["samples"], event["agreement"]) == (18, 70, 1.0)
    assert event["accuracy"] == accuracy and event["max_abs_difference"] < 1e-4


def test_the_model_is_left_alone(model, tmp_path) -> None:
    model[1].eval()  # a mode of one part only must survive as well
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    export(model, tmp_path / "student.onnx", input_size=SIZE)
    assert [module.training for module in model.modules()] == modes
    model[1].train()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_float_input_without_constants(model, samples, tmp_path) -> None:
    images = normalise(samples, MEAN, STD)
    report = export(model, tmp_path / "float.onnx", input_size=SIZE, samples=images)
    assert report.parity.agreement == 1 and report.parity.accuracy_torch is None
    session = onnxruntime.InferenceSession(report.path.read_bytes())
    (logits,) = session.run(None, {"image": images[:7]})
    np.testing.assert_allclose(logits, reference(model, samples[:7]), atol=1e-5)


def test_torchvision_bfloat16_and_compile_wrapper(samples, tmp_path) -> None:
    """A real architecture, half precision, wrapped: the file is float32 all the same."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net = torch.compile(models.squeezenet1_1(num_classes=6).bfloat16())
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    report = export(
        net, tmp_path / "net.onnx", input_size=(3, 64, 64), mean=MEAN, std=STD, samples=images
    )
    assert report.parity.agreement == 1
    proto = onnx.load(report.path)
    floats = {t.data_type for t in proto.graph.initializer if t.data_type != onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT}
    assert next(net.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("constants", [{}, {"mean": MEAN, "std": STD}])
def test_what_torch_takes_for_the_default_device_changes_nothing(
    model, tmp_path, constants
) -> None:
    with torch.device("meta"):
        report = export(model, tmp_path / "student.onnx", input_size=SIZE, **constants)
    assert report.parity.agreement == 1


def test_a_failed_verification_keeps_the_old_file(model, samples, tmp_path, monkeypatch) -> None:
    path = tmp_path / "student.onnx"
    path.write_text("the last good one")
    # The mistake this guards against: constants lost on the way into the graph.
    monkeypatch.setattr(
        original, "Preprocessed", lambda model, mean, std: Preprocessed(model, [0.0] * 3, STD)
    )
    model_with_opinions = nn.Sequential(nn.Flatten(), nn.Linear(576, 6))
    with pytest.raises(ExportError, match="agrees with the model on"):
        export(model_with_opinions, path, input_size=SIZE, mean=MEAN, std=STD, samples=samples)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the last good one"]


def test_verify_finds_another_model(exported, model, samples) -> None:
    path, report = exported
    assert verify(model, path, samples, mean=MEAN, std=STD).agreement == report.parity.agreement
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(576, 6))
    with pytest.raises(ExportError, match="agrees with the model on"):
        verify(other, path, samples, mean=MEAN, std=STD)


def test_verify_refuses_what_is_no_model(model, samples, tmp_path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*missing\.onnx"):
        verify(model, tmp_path / "missing.onnx", samples, mean=MEAN, std=STD)
    (tmp_path / "torn.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"onnxruntime cannot load .*\.onnx: "):
        verify(model, tmp_path / "torn.onnx", samples, mean=MEAN, std=STD)


# One bad argument at a time: the message must name it.
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"path": "student.pte"},
            UserError,
            r"onnx to student\.pte; expected a file name with \.onnx",
        ),
        (
            {"to": "tflite"},
            UserError,
            "no export format is called 'tflite'; known: onnx, onnx-int8",
        ),
        ({"mean": None}, ValueError, "mean is missing"),
        ({"mean": [0.5]}, ValueError, "mean is .*; expected 3 finite numbers up to 1"),
        ({"std": [0.2, 0.0, 0.2]}, ValueError, "std is .*; expected 3 finite numbers above 0"),
        ({"classes": ["a", "b"]}, ValueError, "classes: 2 names for a model with 6 logits"),
        ({"samples": np.zeros((4, 3, 12, 16), np.uint8)}, ValueError, "samples must be uint8"),
        ({"samples": np.zeros((4, 12, 16, 3), np.float32)}, ValueError, "got float32"),
        ({"samples": np.zeros((1, 12, 16, 3), np.uint8)}, ValueError, "N >= 2"),
        ({"labels": np.zeros(3, int)}, ValueError, "labels must be 70 integers"),
        ({"labels": np.full(70, 6)}, ValueError, "labels: found 6; expected positions from 0 to 5"),
        (
            {"classes": "abcdef"},
            TypeError,
            "classes is of type str; expected a sequence, each a str",
        ),
        ({"classes": ["a"] * 6}, ValueError, "classes: a name appears twice"),
        ({"input_size": (12, 16)}, ValueError, r"input_size is \(12, 16\); expected \(C, H, W\)"),
        ({"input_size": 12}, ValueError, "input_size is 12; expected a sequence of integers"),
        ({"opset": "18"}, ValueError, "opset is '18'; expected an integer"),
        ({"to": ["onnx"]}, TypeError, "to is of type list; expected str"),
        ({"max_drop": "a"}, ValueError, "max_drop is 'a'; expected points of accuracy from"),
        ({"model": len}, TypeError, "model is .*; expected Module"),
        (
            {"model": nn.AdaptiveMaxPool2d(1, return_indices=True)},
            ValueError,
            "model returns tuple; expected a tensor of logits",
        ),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Linear(9, 6))},
            ValueError,
            r"model cannot take images of \(C, H, W\) \(3, 12, 16\): mat1 and mat2",
        ),
        ({"metadata": {"classes": 1}}, ValueError, "'classes' is set by export itself"),
        ({"metadata": {5: "a"}}, TypeError, "the key 5 of metadata is of type int; expected str"),
        ({"metadata": {"a": np.float32(1)}}, TypeError, r"metadata\['a'\] is of type float32; exp"),
        ({"classes": range(6)}, TypeError, r"classes\[0\] is of type int; expected str"),
    ],
)
def test_bad_arguments(model, samples, tmp_path, change, error, message) -> None:
    arguments = {"path": "student.onnx", "samples": samples, "mean": MEAN, "std": STD}
    arguments |= {"model": model, "input_size": SIZE, **change}
    path = tmp_path / arguments.pop("path")
    with pytest.raises(error, match=message):
        export(path=path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_flattens_a_feature_map_by_a_view_is_exported(tmp_path) -> None:
    """Bytes are normalised with their channels last, which its view cannot take."""
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    model = Viewing()
    options = {"input_size": (3, 16, 16), "mean": MEAN, "std": STD, "samples": images}
    assert export(model, tmp_path / "v.onnx", **options).parity.agreement == 1
