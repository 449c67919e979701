"""One exported file: what it takes, what it holds, and that a bad one never reaches the disk."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge import onnx as onnx_format
from edufast.edge import parity
from edufast.edge.export import export, verify
from edufast.edge.parity import ExportError
from edufast.edge.preprocess import Preprocessed, normalise
from edufast.utils.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
CLASSES = ["zero", "one", "two", "<three>", "vier", "fünf"]
SIZE = (3, 12, 16)  # height and width differ, so that swapping them shows


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, *SIZE[1:], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A small net with every part whose mode or layout matters, left in train mode."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, len(CLASSES)),
    )
    for _ in range(3):  # running statistics unlike batch statistics
        net(2 * torch.randn(8, *SIZE) + 1)
    return net.train()


@pytest.fixture(scope="module")
def exported(model: nn.Module, samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("export") / "student.onnx"
    labels = np.arange(len(samples)) % len(CLASSES)
    report = export(
        model,
        path,
        input_size=SIZE,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        samples=samples,
        labels=labels,
        metadata={"recipe": "digits", "grades": [1, 2]},
    )
    return path, report


def reference(model: nn.Module, samples: np.ndarray) -> np.ndarray:
    """The model's logits with torch's own arithmetic from the bytes on."""
    pixels = torch.from_numpy(samples).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    training = model.training
    with torch.inference_mode():
        logits = model.eval()((pixels - mean) / std).numpy()
    model.train(training)
    return logits


@pytest.mark.parametrize("batch", [1, 2, 5, 70])  # traced with 2; 5 and 70 were never seen
def test_bytes_to_logits_at_any_batch_size(exported, model, samples, batch: int) -> None:
    path, _ = exported
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("image", "tensor(uint8)", [12, 16, 3])
    ]
    (logits,) = session.run(["logits"], {"image": samples[:batch]})
    np.testing.assert_allclose(logits, reference(model, samples[:batch]), atol=1e-5)


def test_report(exported, model, samples) -> None:
    path, report = exported
    assert report.path == path and report.bytes == path.stat().st_size and not report.noise
    labels = np.arange(len(samples)) % len(CLASSES)
    accuracy = float((reference(model, samples).argmax(1) == labels).mean())
    assert report.parity.accuracy_torch == report.parity.accuracy_exported == accuracy
    event = json.loads(json.dumps(report.to_dict()))
    assert event["path"] == "student.onnx"
    assert (event["opset"], event["samples"], event["agreement"]) == (18, 70, 1.0)
    assert event["accuracy_onnx"] == accuracy and event["max_abs_difference"] < 1e-4


def test_the_file_is_complete_and_valid(exported) -> None:
    path, _ = exported
    assert [p.name for p in path.parent.iterdir()] == ["student.onnx"]
    proto = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert {e.domain: e.version for e in proto.opset_import}[""] == 18
    entries = {e.key: e.value for e in proto.metadata_props}
    assert json.loads(entries["classes"]) == CLASSES
    assert json.loads(entries["preprocessing"])["mean"] == MEAN
    assert json.loads(entries["preprocessing"])["std"] == STD
    assert json.loads(entries["versions"])["torch"] in torch.__version__
    assert entries["recipe"] == "digits" and json.loads(entries["grades"]) == [1, 2]


def test_no_trace_of_the_machine(exported) -> None:
    content = exported[0].read_bytes()
    for word in (
        str(Path(__file__).parent),
        str(Path(torch.__file__).parent),
        ".py",
        "stack_trace",
    ):
        assert word.encode() not in content


def test_exporting_again_gives_the_same_bytes(exported, model, samples, tmp_path) -> None:
    path, _ = exported
    again = tmp_path / "again.onnx"
    export(
        model,
        again,
        input_size=SIZE,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        metadata={"recipe": "digits", "grades": [1, 2]},
    )
    assert again.read_bytes() == path.read_bytes()


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


def test_preprocessing_matches_torch(samples) -> None:
    pixels = torch.from_numpy(samples).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    expected = (pixels - mean) / std
    inside = Preprocessed(nn.Identity(), MEAN, STD)(torch.from_numpy(samples))
    torch.testing.assert_close(inside, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(
        torch.from_numpy(normalise(samples, MEAN, STD)), expected, atol=2e-6, rtol=0
    )


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


def test_another_opset_than_asked_for_is_refused(model, tmp_path) -> None:
    with pytest.raises(
        ExportError, match="opset 13 was asked for, but PyTorch could only write 18"
    ):
        export(model, tmp_path / "old.onnx", input_size=SIZE, opset=13)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_verification_keeps_the_old_file(model, samples, tmp_path, monkeypatch) -> None:
    path = tmp_path / "student.onnx"
    path.write_text("the last good one")
    # The mistake this guards against: constants lost on the way into the graph.
    monkeypatch.setattr(
        onnx_format, "Preprocessed", lambda model, mean, std: Preprocessed(model, [0.0] * 3, STD)
    )
    model_with_opinions = nn.Sequential(nn.Flatten(), nn.Linear(576, 6))
    with pytest.raises(ExportError, match="agrees with the model on"):
        export(model_with_opinions, path, input_size=SIZE, mean=MEAN, std=STD, samples=samples)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the last good one"]


class FixedBatch(nn.Module):
    """A branch on the batch size: tracing would keep only one side of it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = image.flatten(1)[:, :6]
        return logits if len(image) == 2 else logits + 1


def test_a_model_that_fixes_the_batch_is_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match="cannot run the file at batch size 1: ") as caught:
        export(FixedBatch(), tmp_path / "fixed.onnx", input_size=SIZE)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(ExportError, match="onnxruntime cannot load the file"):
        verify(model, tmp_path / "torn.onnx", samples, mean=MEAN, std=STD)


class Untraceable(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, : 2 + int(image.mean().item() > 0)]


def test_a_model_that_cannot_be_traced_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(ExportError, match="PyTorch cannot export this model: ") as caught:
        export(Untraceable(), tmp_path / "net.onnx", input_size=SIZE)
    assert "\n" not in str(caught.value)


def run_of(logits: np.ndarray) -> parity.Run:
    """A stand-in for an exported file: image i carries its own number."""
    return lambda images: logits[images]


def test_gates() -> None:
    expected = np.eye(4, dtype=np.float32)[np.arange(4000) % 4]
    images, labels = np.arange(4000), np.arange(4000) % 4
    rounded = expected + np.float32(1e-6)
    assert parity.compare(expected, run_of(rounded), images, labels).agreement == 1

    few, many = expected.copy(), expected.copy()
    few[100:104] = np.roll(few[100:104], 1, axis=1)  # 0.999 agree, and the accuracy differs
    many[100:105] = np.roll(many[100:105], 1, axis=1)
    assert parity.compare(expected, run_of(few), images, None).agreement == 0.999
    with pytest.raises(ExportError, match=r"accuracy 0\.9990 of the exported file differs from 1"):
        parity.compare(expected, run_of(few), images, labels)
    with pytest.raises(ExportError, match=r"0\.9988 of 4000 images"):
        parity.compare(expected, run_of(many), images, None)


def test_ties_within_rounding_agree() -> None:
    expected = np.array([[1.0, 1.0 - 1e-6, 0.0]] * 8, dtype=np.float32)
    flipped = expected[:, [1, 0, 2]]
    images = np.arange(8)
    assert parity.compare(expected, run_of(flipped), images, np.zeros(8, int)).agreement == 1
    with pytest.raises(ExportError):
        parity.compare(expected, run_of(expected[:, [1, 2, 0]]), images, None)


def test_missing_packages_name_the_extra(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript is needed .* 'edufast\[export\]'"):
        export(model, tmp_path / "student.onnx", input_size=SIZE)


# One bad argument at a time: the message must name it.
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "student.pte"}, UserError, r"student\.pte: supported suffixes: \.onnx"),
        ({"mean": None}, ValueError, "mean is missing"),
        ({"mean": [0.5]}, ValueError, "mean must be 3 finite numbers"),
        ({"std": [0.2, 0.0, 0.2]}, ValueError, "std must be positive"),
        ({"classes": ["a", "b"]}, ValueError, "classes: 2 names for a model of 6 logits"),
        ({"samples": np.zeros((4, 3, 12, 16), np.uint8)}, ValueError, "samples must be uint8"),
        ({"samples": np.zeros((4, 12, 16, 3), np.float32)}, ValueError, "got float32"),
        ({"samples": np.zeros((1, 12, 16, 3), np.uint8)}, ValueError, "N >= 2"),
        ({"labels": np.zeros(3, int)}, ValueError, "labels must be 70 integers"),
        ({"metadata": {"classes": 1}}, ValueError, "'classes' is written by export itself"),
    ],
)
def test_bad_arguments(model, samples, tmp_path, change, error, message) -> None:
    arguments = {"path": "student.onnx", "samples": samples, "mean": MEAN, "std": STD, **change}
    path = tmp_path / arguments.pop("path")
    with pytest.raises(error, match=message):
        export(model, path, input_size=SIZE, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_exporter_is_quiet_only_while_it_runs(model, tmp_path, capfd) -> None:
    level = logging.getLogger("torch.onnx").level
    export(model, tmp_path / "student.onnx", input_size=SIZE)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert logging.getLogger("torch.onnx").level == level
