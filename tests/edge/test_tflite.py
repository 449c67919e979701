"""The .tflite file: what is in it, that it is reproducible, and that LiteRT alone can run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edufast
from edufast.edge.bundle import write_bundle
from edufast.edge.export import export, verify
from edufast.edge.parity import ExportError
from edufast.edge.replay import replay
from edufast.edge.seal import sealed
from edufast.edge.tflite import read_metadata, runner
from edufast.models.weights import ModelInfo
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, normalised, reference
from tests.tiny import tiny_data, tiny_model

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("litert_torch")

OPTIONS = {"to": "litert", "input_size": SIZE, "classes": CLASSES}


@pytest.fixture(scope="module")
def written(model, samples, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp("tflite") / "student.tflite"
    report = export(
        model, path, samples=samples, labels=answers, mean=MEAN, std=STD,
        metadata={"recipe": "digits"}, **OPTIONS,
    )  # fmt: skip
    return path, report


def test_it_says_what_it_is_and_how_it_does(written) -> None:
    path, report = written
    said = read_metadata(path)
    assert said["classes"] == CLASSES and said["recipe"] == "digits"
    assert said["preprocessing"]["mean"] == MEAN
    assert said["versions"].keys() == {"torch", "litert-torch", "litert-converter"}
    assert report.opset is None and report.to_dict()["format"] == "litert"
    assert report.alone.runtime.startswith("LiteRT ")
    assert report.alone.peak_bytes > report.alone.runtime_bytes > 0


def test_input_and_output_are_called_as_in_the_contract(written, model, samples) -> None:
    program = interpreter.Interpreter(model_content=written[0].read_bytes())
    answers = program.get_signature_runner()(image=samples[:1])
    assert answers.keys() == {"logits"} and answers["logits"].dtype == np.float32
    np.testing.assert_allclose(answers["logits"], reference(model, samples[:1]), atol=1e-4)


def test_exporting_again_gives_the_same_bytes_with_no_trace_of_the_machine(
    written, model, tmp_path
) -> None:
    again = tmp_path / "again.tflite"
    export(model, again, mean=MEAN, std=STD, metadata={"recipe": "digits"}, **OPTIONS)
    content = again.read_bytes()
    assert content == written[0].read_bytes()
    for word in (str(Path(__file__).parent), str(Path(torch.__file__).parent), ".py"):
        assert word.encode() not in content


def test_without_constants_images_come_normalised(model, samples, tmp_path) -> None:
    path = tmp_path / "student.tflite"
    images = normalised(samples).numpy()
    export(model, path, samples=images, **OPTIONS)
    np.testing.assert_allclose(runner(path)(images[:3]), reference(model, samples[:3]), atol=1e-4)


def test_a_model_that_cannot_be_traced_is_one_line_and_no_file(tmp_path) -> None:
    class Branches(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    path = tmp_path / "student.tflite"
    with pytest.raises(ExportError, match=r"^LiteRT cannot take this model: .*") as caught:
        export(Branches(), path, **(OPTIONS | {"classes": None}))
    assert "\n" not in str(caught.value) and not path.exists()


def test_what_is_no_program_is_refused(tmp_path) -> None:
    path = tmp_path / "student.tflite"
    path.write_bytes(sealed(b"no program at all, not even a header of one" * 9))
    with pytest.raises(ExportError, match=r"^LiteRT cannot load .*student.tflite: "):
        runner(path)


@pytest.mark.parametrize("at", [0, 1000, -100, -1])
def test_a_flipped_bit_is_noticed(written, tmp_path, at: int) -> None:
    content = bytearray(written[0].read_bytes())
    content[at] ^= 1
    path = tmp_path / "student.tflite"
    path.write_bytes(content)
    for read in (runner, read_metadata):
        with pytest.raises(ExportError, match=r"student.tflite is damaged"):
            read(path)


def test_images_of_another_size_are_one_line(written) -> None:
    with pytest.raises(ExportError, match=r"^LiteRT cannot run the file: ValueError: "):
        runner(written[0])(np.zeros((1, 5, 5, 3), np.uint8))


def test_the_script_measures_it_without_torch_or_messages(written, samples, tmp_path) -> None:
    script = Path(edufast.__file__).parent / "edge" / "device.py"
    (tmp_path / "student.tflite").write_bytes(written[0].read_bytes())
    np.savez(tmp_path / "golden.npz", images=samples[:4])
    without = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:];"
    code = f"{without} runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", code, script, tmp_path / "student.tflite"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["file"] == "student.tflite" and row["sha256"] == written[1].alone.sha256
    assert row["median_ms"] > 0 and row["load_ms"] > 0 and not done.stderr


def test_another_model_under_the_same_name_is_noticed(written, model, samples, answers) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SIZE)), len(CLASSES)))
    compared = {"to": "litert", "labels": answers, "mean": MEAN, "std": STD}
    with pytest.raises(ExportError, match="agree"):
        verify(other, written[0], samples, **compared)
    verify(model, written[0], samples, **compared)


def test_a_bundle_is_replayed(tmp_path) -> None:
    torch.manual_seed(0)
    data, folder = tiny_data(per_class=40), tmp_path / "student.edge"
    info = ModelInfo.describe("tiny", data, range(4), 0.5, 0, 0.0)
    write_bundle(tiny_model(4), info, data, folder, ["litert", "onnx"])
    replays = {each.file.name: each for each in replay(folder)}
    assert replays["student.tflite"].agreement == 1 and replays["student.tflite"].file.exact
    with np.load(folder / "golden.npz") as golden:
        np.testing.assert_allclose(golden["student.tflite"], golden["student.onnx"], atol=1e-4)
