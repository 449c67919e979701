"""The .onnx file: complete, reproducible, without traces of the machine, and refused if wrong."""

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
from edufast.edge.export import Wanted, export, export_all
from edufast.edge.original import Original
from edufast.edge.parity import ExportError
from edufast.utils.errors import UserError
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, reference

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("batch", [1, 2, 5, 70])  # traced with 2; 5 and 70 were never seen
def test_bytes_to_logits_at_any_batch_size(exported, model, samples, batch: int) -> None:
    path, _ = exported
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("image", "tensor(uint8)", [12, 16, 3])
    ]
    (logits,) = session.run(["logits"], {"image": samples[:batch]})
    np.testing.assert_allclose(logits, reference(model, samples[:batch]), atol=1e-5)


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


def test_formats_of_one_model_are_traced_once(model, samples, calibration, tmp_path, monkeypatch):
    traced = []
    trace = onnx_format._trace
    monkeypatch.setattr(onnx_format, "_trace", lambda *a: (traced.append(a), trace(*a))[1])
    original = Original.of(
        model,
        input_size=SIZE,
        mean=MEAN,
        std=STD,
        samples=samples,
        labels=torch.zeros(len(samples), dtype=torch.int64),
        calibration=calibration,
    )
    wanted = [
        Wanted(original, "onnx", tmp_path / "a.onnx"),
        Wanted(original, "onnx-int8", tmp_path / "a.int8.onnx"),
        Wanted(original, "onnx", tmp_path / "b.onnx"),
    ]
    export_all(wanted, max_drop=100)
    assert len(traced) == 1
    first, quantised, again = (each.path.read_bytes() for each in wanted)
    assert first == again != quantised


def test_an_opset_that_pytorch_cannot_write_is_refused(model, tmp_path) -> None:
    with pytest.raises(
        ExportError, match="opset 13 was requested, but PyTorch could only write 18"
    ):
        export(model, tmp_path / "old.onnx", input_size=SIZE, opset=13)
    assert list(tmp_path.iterdir()) == []


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


class Untraceable(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, : 2 + int(image.mean().item() > 0)]


def test_a_model_that_cannot_be_traced_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(ExportError, match="PyTorch cannot export this model: ") as caught:
        export(Untraceable(), tmp_path / "net.onnx", input_size=SIZE)
    assert "\n" not in str(caught.value)


def test_missing_packages_name_the_extra(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'edufast\[export\]'"):
        export(model, tmp_path / "student.onnx", input_size=SIZE)


def test_the_exporter_is_quiet_only_while_it_runs(model, tmp_path, capfd) -> None:
    level = logging.getLogger("torch.onnx").level
    export(model, tmp_path / "student.onnx", input_size=SIZE)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert logging.getLogger("torch.onnx").level == level
