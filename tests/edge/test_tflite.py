"""The .tflite file: what of it is LiteRT's. The rest is in test_one_image.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edufast
from edufast.edge.bundle import write_bundle
from edufast.edge.export import export
from edufast.edge.parity import ExportError
from edufast.edge.replay import replay
from edufast.edge.tflite import runner, versions
from edufast.models.weights import ModelInfo
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, reference
from tests.tiny import tiny_data, tiny_model

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("litert_torch")


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tflite") / "student.tflite"
    export(model, path, to="litert", input_size=SIZE, classes=CLASSES, mean=MEAN, std=STD)
    return path


def test_input_and_output_are_called_as_in_the_contract(path, model, samples) -> None:
    program = interpreter.Interpreter(model_content=path.read_bytes())
    answers = program.get_signature_runner()(image=samples[:1])
    assert answers.keys() == {"logits"} and answers["logits"].dtype == np.float32
    np.testing.assert_allclose(answers["logits"], reference(model, samples[:1]), atol=1e-4)


def test_images_of_another_size_are_one_line(path) -> None:
    with pytest.raises(ExportError, match=r"^LiteRT cannot run the file: ValueError: "):
        runner(path)(np.zeros((1, 5, 5, 3), np.uint8))


def test_the_script_measures_it_without_torch(path) -> None:
    script = Path(edufast.__file__).parent / "edge" / "device.py"
    without = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:];"
    code = f"{without} runpy.run_path(sys.argv[0])"
    subprocess.run([sys.executable, "-c", code, script, path], check=True)


def test_versions_are_those_that_determine_the_file() -> None:
    assert versions().keys() == {"torch", "litert-torch", "litert-converter"}


def test_a_bundle_is_replayed(tmp_path) -> None:
    torch.manual_seed(0)
    data, folder = tiny_data(per_class=40), tmp_path / "student.edge"
    info = ModelInfo.describe("tiny", data, range(4), 0.5, 0, 0.0)
    write_bundle(tiny_model(4), info, data, folder, ["litert", "onnx"])
    replays = {each.file.name: each for each in replay(folder)}
    assert replays["student.tflite"].agreement == 1 and replays["student.tflite"].file.exact
    with np.load(folder / "golden.npz") as golden:
        np.testing.assert_allclose(golden["student.tflite"], golden["student.onnx"], atol=1e-4)
