"""Commands on files of weights."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from edufast.data import Samples, load_dataset
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from tests.commands import edufast, one_line


def save(path, data, model="resnet8", classes=range(6)):
    """Untrained weights of a classifier of some classes of ``data``."""
    info = ModelInfo.describe(model, data, classes, 0.5, 0, 0.0)
    save_model(path, create_model(model, len(classes)), info)
    return path


@pytest.fixture(scope="module")
def data(folder):
    return load_dataset(str(folder / "pictures"), image_size=16)


def test_a_file_of_weights_becomes_one_file_for_the_edge(data, tmp_path):
    weights = save(tmp_path / "t.safetensors", data)
    result = edufast("export", weights, "--out", tmp_path / "other.onnx", "--json")
    assert json.loads(result.stdout)["agreement"] == 1.0
    session = onnxruntime.InferenceSession(tmp_path / "other.onnx")
    (logits,) = session.run(None, {"image": np.zeros((3, 16, 16, 3), np.uint8)})
    assert logits.shape == (3, 6)


def test_a_run_folder_is_exported_where_it_is(data, tmp_path):
    save(tmp_path / "student.safetensors", data)
    result = edufast("export", tmp_path)
    assert (tmp_path / "student.onnx").is_file()
    assert "student.onnx" in result.stderr and "agreement with PyTorch 100.0%" in " ".join(
        result.stderr.split()
    )


def test_what_cannot_be_exported_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = edufast("export", "nowhere.safetensors", code=2)
    assert result.stderr.startswith("edufast: no model at nowhere.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_the_model_are_told_in_one_line(data, tmp_path, monkeypatch):
    weights = save(tmp_path / "t.safetensors", data)
    few = replace(data, val=Samples(data.val.images[:8], data.val.labels[:8]))
    monkeypatch.setattr("edufast.data.load_dataset", lambda *_, **__: few)
    text = one_line(edufast("export", weights, code=2))
    assert f"{data.name} has no validation image of class 1, which the model knows" in text
    one = replace(data, val=Samples(data.val.images[:1], data.val.labels[:1]))
    monkeypatch.setattr("edufast.data.load_dataset", lambda *_, **__: one)
    weights = save(tmp_path / "one.safetensors", data, classes=[int(data.val.labels[0])])
    text = one_line(edufast("export", weights, code=2))
    assert text.startswith(f"edufast: {weights}: samples must be uint8 (N >= 2")
    assert not list(tmp_path.glob("*.onnx"))


def test_merge_averages_models(data, tmp_path):
    weights = [save(tmp_path / f"{name}.safetensors", data) for name in "ab"]
    first, second, merged = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "m"))
    edufast("merge", *weights, "--out", merged, "--weights", "1,3")
    for name in ("fc.weight", "conv1.weight"):
        expected = 0.25 * load_file(first)[name] + 0.75 * load_file(second)[name]
        torch.testing.assert_close(load_file(merged)[name], expected)


def test_one_model_has_no_average(data, tmp_path):
    weights = save(tmp_path / "a.safetensors", data)
    result = edufast("merge", weights, "--out", tmp_path / "m.safetensors", code=2)
    assert "expected two or more" in one_line(result)
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [("1,x", "--weights: '1,x'; expected numbers"), (None, "c.safetensors")],
)
def test_models_that_cannot_be_merged_leave_no_file(data, tmp_path, weights, message):
    files = [save(tmp_path / "a.safetensors", data), save(tmp_path / "b.safetensors", data)]
    options = ["--weights", weights] if weights else []
    if not weights:
        files[1] = save(tmp_path / "c.safetensors", data, classes=range(2))
    result = edufast("merge", *files, "--out", tmp_path / "n.safetensors", *options, code=2)
    text = " ".join(result.stderr.split())
    assert text.startswith("edufast: ") and message in text
    assert not (tmp_path / "n.safetensors").exists()
