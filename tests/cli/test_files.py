"""Commands on files of weights: export, merge."""

import json

import torch
from safetensors.torch import load_file

from edufast.models.weights import load_model, save_model
from tests.commands import edufast, one_line


def test_merge_averages_students(run, folder):
    model, info = load_model(run / "student.safetensors")
    with torch.no_grad():
        model.fc.weight.add_(1.0)
    save_model(folder / "other.safetensors", model, info)
    weights = [run / "student.safetensors", folder / "other.safetensors"]
    edufast("merge", *weights, "--out", folder / "m.safetensors", "--weights", "1,3")
    original, merged = load_file(weights[0]), load_file(folder / "m.safetensors")
    torch.testing.assert_close(merged["fc.weight"], original["fc.weight"] + 0.75)
    torch.testing.assert_close(merged["conv1.weight"], original["conv1.weight"])
    teacher = run / "teachers" / "teacher0.safetensors"
    edufast("merge", weights[0], teacher, "--out", folder / "n.safetensors", code=2)
    edufast("merge", *weights, "--out", folder / "n.safetensors", "--weights", "1,x", code=2)


def test_a_teacher_is_exported_and_verified_on_its_data(run, folder):
    weights = run / "teachers" / "teacher1.safetensors"
    result = edufast("export", weights, "--out", folder / "t.onnx", "--json")
    assert json.loads(result.stdout)["agreement"] == 1.0


def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = one_line(edufast("export", "nowhere.safetensors", code=2))
    assert message.startswith("edufast: no model at nowhere.safetensors")
    assert list(tmp_path.iterdir()) == []
