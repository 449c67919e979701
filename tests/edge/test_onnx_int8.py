"""The .onnx file of 8-bit integers: how it is quantised, that it is reproducible, when it is not
written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge import original
from edufast.edge.export import export, verify
from edufast.edge.parity import ExportError
from edufast.edge.preprocess import Preprocessed
from edufast.edge.seal import is_damaged
from tests.edge.cases import CLASSES, MEAN, SIZE, STD

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

OPTIONS = {"input_size": SIZE, "classes": CLASSES, "mean": MEAN, "std": STD}


@pytest.fixture(scope="module")
def quantised(model, samples, calibration, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "student.int8.onnx"
    report = export(
        model, path, to="onnx-int8", samples=samples, labels=answers, calibration=calibration,
        max_drop=20, metadata={"recipe": "digits"}, **OPTIONS,
    )  # fmt: skip
    return path, report


@pytest.fixture(scope="module")
def proto(quantised):
    return onnx.load(quantised[0], load_external_data=False)


def test_weights_are_int8_per_channel_and_activations_uint8(proto) -> None:
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    made = {name: node for node in proto.graph.node for name in node.output}
    layers = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.op_type for node in layers] == ["Conv", "Conv", "Gemm"]
    for layer, channels in zip(layers, (8, 12, 6), strict=True):
        activation, weight = (made[name] for name in layer.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert values[weight.input[0]].dtype == np.int8
        scales, zeros = (values[name] for name in weight.input[1:])
        assert scales.shape == (channels,) and len(np.unique(scales)) > 1 and not zeros.any()
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        assert values[activation.input[2]].dtype == np.uint8
    assert made["logits"].op_type == "Gemm", "logits are not rounded to integers"


def test_it_takes_the_same_bytes_and_says_the_same_as_the_float32_file(
    quantised, proto, exported
) -> None:
    sessions = [onnxruntime.InferenceSession(path) for path in (exported[0], quantised[0])]
    ends = [
        [(end.name, end.type, end.shape[1:]) for end in (*s.get_inputs(), *s.get_outputs())]
        for s in sessions
    ]
    assert ends[0] == ends[1]
    onnx.checker.check_model(proto, full_check=True)
    assert [(e.domain, e.version) for e in proto.opset_import] == [("", 18)]
    said = [s.get_modelmeta().custom_metadata_map for s in sessions]
    for key in ("classes", "input_size", "preprocessing"):
        assert said[0][key] == said[1][key]
    assert said[1]["recipe"] == "digits"
    assert "onnxruntime" in json.loads(said[1]["versions"])
    assert json.loads(said[1]["quantisation"])["calibration_images"] == 64
    assert not is_damaged(quantised[0].read_bytes())
    assert [path.name for path in quantised[0].parent.iterdir()] == ["student.int8.onnx"]


AGAIN = """
import sys, numpy as np, torch
from edufast.edge.export import export
from tests.edge.cases import *
model, images, path = torch.load(sys.argv[1], weights_only=False), np.load(sys.argv[2]), sys.argv[3]
export(model, path, to="onnx-int8", input_size=SIZE, classes=CLASSES, mean=MEAN, std=STD,
       samples=images["samples"], labels=images["answers"], calibration=images["calibration"],
       max_drop=20, metadata={"recipe": "digits"})
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_writes_the_same_bytes(
    quantised, model, samples, calibration, answers, tmp_path, hash_seed
) -> None:
    torch.save(model, tmp_path / "model.pt")
    np.savez(tmp_path / "a.npz", samples=samples, calibration=calibration, answers=answers)
    script, again = tmp_path / "again.py", tmp_path / "again.onnx"
    script.write_text(AGAIN)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    arguments = [tmp_path / "model.pt", tmp_path / "a.npz", again]
    subprocess.run([sys.executable, script, *arguments], check=True, env=environment)
    assert again.read_bytes() == quantised[0].read_bytes()


def test_no_trace_of_the_machine(quantised) -> None:
    content = quantised[0].read_bytes()
    for word in (str(Path(__file__).parent), str(Path(torch.__file__).parent), "/tmp", ".py"):
        assert word.encode() not in content


def test_the_report_says_what_it_loses(quantised, model, samples, answers) -> None:
    path, report = quantised
    parity = report.parity
    assert report.format == "onnx-int8" and report.bytes == path.stat().st_size
    assert parity.accuracy_torch == 1 and parity.accuracy_exported == parity.agreement > 0.8
    assert parity.interval[0] <= parity.difference <= parity.interval[1]
    said = json.loads(json.dumps(report.to_dict()))
    assert said["difference"] == parity.difference and said["interval"] == list(parity.interval)
    assert said["worst_class"]["class"] in CLASSES
    assert said["latency_ms"] <= said["latency_p95_ms"]
    again = verify(
        model, path, samples, to="onnx-int8", labels=answers, mean=MEAN, std=STD, max_drop=20
    )
    assert again == parity


def test_it_is_smaller_where_there_are_weights_to_save(tmp_path, samples, calibration) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 140, 6))
    images = {"samples": samples, "labels": np.zeros(70, int), "calibration": calibration}
    sizes = [
        export(wide, tmp_path / f"{to}.onnx", to=to, max_drop=100, **images, **OPTIONS).bytes
        for to in ("onnx", "onnx-int8")
    ]
    assert sizes[1] < 0.3 * sizes[0]


class Outlier(nn.Module):
    """One feature is ten thousand times as large as the one that matters: with a common step,
    integers have none left for it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.conv2d(image, self.weight)
        matters = features.mean((2, 3)) @ self.head
        return torch.cat([matters, -matters], 1)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1e4, 0, 0], [0, 1, -1]])[..., None, None])
        self.head = nn.Parameter(torch.tensor([[0.0], [1.0]]))


def test_a_file_that_loses_more_than_it_may_is_not_written(samples, calibration, tmp_path) -> None:
    path = tmp_path / "student.int8.onnx"
    path.write_text("the last good one")
    model = Outlier()
    options = {**OPTIONS, "classes": None, "samples": samples, "calibration": calibration}
    with torch.no_grad():
        pixels = torch.from_numpy(samples).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        labels = model((pixels - mean) / std).argmax(1).numpy()
    message = r"loses [\d.]+ points of accuracy \(95% interval [\d.]+ to [\d.]+\): .* at most 0.5"
    with pytest.raises(ExportError, match=message) as caught:
        export(model, path, to="onnx-int8", labels=labels, **options)
    assert "\n" not in str(caught.value)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the last good one"]
    report = export(model, path, to="onnx-int8", labels=labels, max_drop=100, **options)
    assert report.parity.difference < -0.1


class Unnormalised(Preprocessed):
    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__(model, [0.0] * 3, [1.0] * 3)


class Misread(Preprocessed):
    """Takes bytes (H, W, C) for (C, H, W)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        misread = image.reshape(-1, *SIZE).permute(0, 2, 3, 1)
        return super().forward(misread)


@pytest.mark.parametrize("wrong", [Unnormalised, Misread])
def test_wrong_preprocessing_is_noticed(
    model, samples, calibration, answers, tmp_path, monkeypatch, wrong
) -> None:
    monkeypatch.setattr(original, "Preprocessed", wrong)
    with pytest.raises(ExportError, match="the exported file loses"):
        export(
            model, tmp_path / "s.onnx", to="onnx-int8", samples=samples, labels=answers,
            calibration=calibration, max_drop=20, **OPTIONS,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_an_activation_without_range_is_refused(samples, calibration, tmp_path) -> None:
    """A layer that is dead, or saw nothing in calibration."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    nn.init.constant_(model[0].bias, -1e6)
    with pytest.raises(
        ExportError, match=r"activation '.*' is between 0 and 0 for all calibration"
    ):
        export(
            model, tmp_path / "s.onnx", to="onnx-int8", samples=samples,
            labels=np.zeros(70, int), calibration=calibration, max_drop=100, **OPTIONS,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_quantised_is_refused_in_one_line(
    model, samples, calibration, answers, tmp_path, monkeypatch
) -> None:
    def fails(*_, **__):
        raise RuntimeError("no such operator\nand a page of advice")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fails)
    with pytest.raises(ExportError) as caught:
        export(
            model, tmp_path / "s.onnx", to="onnx-int8", samples=samples, labels=answers,
            calibration=calibration, **OPTIONS,
        )  # fmt: skip
    message = "onnxruntime cannot quantise this model: RuntimeError: no such operator"
    assert str(caught.value) == message and list(tmp_path.iterdir()) == []


def test_logging_and_the_terminal_are_left_alone(
    model, samples, calibration, answers, tmp_path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    export(
        model, tmp_path / "s.onnx", to="onnx-int8", samples=samples, labels=answers,
        calibration=calibration, max_drop=20, **OPTIONS,
    )  # fmt: skip
    captured = capfd.readouterr()
    assert captured.out == captured.err == "" and logging.root.handlers == []


def test_float_input_without_constants(model, samples, calibration, answers, tmp_path) -> None:
    from edufast.edge.preprocess import normalise

    report = export(
        model, tmp_path / "s.onnx", to="onnx-int8", input_size=SIZE,
        samples=normalise(samples, MEAN, STD), labels=answers,
        calibration=normalise(calibration, MEAN, STD), max_drop=20,
    )  # fmt: skip
    assert report.parity.agreement > 0.8


# One bad argument at a time: the message must name it.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": None}, "onnx-int8 needs calibration: at least 64 images of the training"),
        (
            {"labels": None},
            "onnx-int8 is judged by its accuracy: expected samples and their labels",
        ),
        ({"samples": None, "labels": None}, "onnx-int8 is judged by its accuracy"),
        ({"max_drop": -0.1}, "max_drop is -0.1; expected points of accuracy from 0 to 100"),
        ({"max_drop": float("nan")}, "max_drop is nan; expected points"),
    ],
)
def test_bad_arguments(model, samples, calibration, answers, tmp_path, change, message) -> None:
    images = {"samples": samples, "labels": answers, "calibration": calibration}
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "s.onnx", to="onnx-int8", **{**images, **change}, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_calibration_on_the_images_of_verification_is_refused(
    model, samples, calibration, answers, tmp_path
) -> None:
    with pytest.raises(ValueError, match="64 of 64 images are samples for verification, too"):
        export(
            model, tmp_path / "s.onnx", to="onnx-int8", samples=samples, labels=answers,
            calibration=samples[:64], max_drop=20, **OPTIONS,
        )  # fmt: skip
    once_in_each_split = np.concatenate([calibration[1:], samples[:1]])
    export(
        model, tmp_path / "s.onnx", to="onnx-int8", samples=samples, labels=answers,
        calibration=once_in_each_split, max_drop=20, **OPTIONS,
    )  # fmt: skip
