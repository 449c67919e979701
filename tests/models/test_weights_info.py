"""Files of weights: complete, checked, and never a reason to run code."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edufast.models.weights import ModelInfo, load_model, read_info, save_model
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.conftest import UserPackage
from tests.tiny import tiny_data

INFO = ModelInfo("resnet8", ("a", "b"), (4, 2), "x", 32, (0.1, 0.2, 0.3), (1.0,) * 3, 0.9, 100, 2.5)

NETS = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("witness").touch()

def tiny(num_classes):
    return nn.Linear(3, num_classes)
"""


def test_a_model_comes_back_with_all_that_is_known_about_it(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = create_model("resnet8", 2)
    save_model(path, model, INFO)
    loaded, info = load_model(path)
    assert info == INFO == read_info(path) and not loaded.training
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model.eval()(images))


def test_a_description_takes_names_and_pixels_from_the_data_set() -> None:
    data = tiny_data()
    info = ModelInfo.describe("resnet8", data, np.array([5, 0]), 0.5, 7, 1.5)
    assert (info.classes, info.class_ids) == (("c5", "c0"), (5, 0))
    assert (info.data, info.image_size, info.mean, info.std) == ("tiny", 16, data.mean, data.std)
    assert (info.accuracy, info.training_flops, info.training_seconds) == (0.5, 7, 1.5)


def test_files_that_hold_no_model_are_told(tmp_path: Path) -> None:
    def told(path: Path, message: str) -> None:
        for read in (load_model, read_info):
            with pytest.raises(UserError, match=message) as caught:
                read(path)
            assert "\n" not in str(caught.value)

    path = tmp_path / "m.safetensors"
    told(path, "no model at .*m.safetensors; expected a .safetensors file")
    path.write_bytes(b"no model")
    told(path, "is not a readable safetensors file")
    save_file({"a": torch.zeros(1)}, path)
    told(path, "was not written by edufast: it does not say which model it holds")


def test_weights_that_do_not_fit_their_model_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, create_model("resnet8", 2), replace(INFO, model="resnet14"))
    with pytest.raises(UserError, match=r"it has no tensor 'layer1.1.conv1.weight'") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    save_model(path, nn.Linear(1, 1), replace(INFO, model="of_nobody"))
    with pytest.raises(UserError, match="model is 'of_nobody'; expected one of resnet8"):
        load_model(path)


def test_what_a_file_says_makes_no_code_run_before_the_user_says_the_same(
    mypackage: UserPackage, tmp_path: Path
) -> None:
    package = mypackage.write(nets=NETS)
    path = tmp_path / "m.safetensors"
    save_model(path, nn.Linear(3, 2), replace(INFO, model="mypackage.nets:tiny"))
    for model in (None, "resnet8", "mypackage.nets:other"):
        with pytest.raises(UserError, match=r"holds a model of .*, and building that runs code"):
            load_model(path, model=model)
    assert read_info(path).model == "mypackage.nets:tiny"
    assert not (package / "witness").exists() and "mypackage.nets" not in sys.modules
    loaded, _ = load_model(path, model="mypackage.nets:tiny")
    assert (package / "witness").exists()
    assert torch.equal(loaded.weight, load_file(path)["weight"])


def test_a_file_keeps_what_is_known_as_plain_text(tmp_path: Path) -> None:
    """Other programs can read it; nothing in it is code."""
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    save_model(path, nn.Linear(3, 2), INFO)
    with safe_open(path, framework="np") as file:
        fields = json.loads(file.metadata()["edufast"])
    assert fields["classes"] == ["a", "b"] and fields["model"] == "resnet8"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 10**9),
        ("image_size", 0),
        ("class_ids", (10**30, 2)),
        ("class_ids", (-1, 2)),
        ("std", (1e-320, 1.0, 1.0)),
        ("mean", (float("inf"), 0.0, 0.0)),
    ],
)
def test_values_that_no_model_can_have_are_refused_by_name(tmp_path: Path, key, value) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, create_model("resnet8", 2), INFO)
    text = json.dumps({**vars(INFO), key: value})
    save_file(load_file(path), path, {"edufast": text})
    with pytest.raises(UserError, match=f"describes its model wrongly: {key}: ") as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
