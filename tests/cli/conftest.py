"""A folder of pictures, a recipe for it, and a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.commands import edufast, write_pictures
from tests.tiny import tiny_data

RECIPE = {
    "name": "mine",
    "data": {"source": "?", "image_size": 16},
    "student": {"model": "resnet8"},
    "teachers": [
        {"model": "resnet8", "classes": "0-1"},
        {"model": "resnet8", "classes": "2-3"},
        {"model": "resnet8", "classes": "4-5"},
    ],
    "teacher_epochs": 2,
    "curriculum": {"preset": "default", "epochs": 4, "shares": [1, 1, 2]},
    "training": {"batch_size": 16, "augment": {"pad": 1, "flip": False}},
    "baselines": ["scratch"],
}


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in class folders, and a recipe for them."""
    root = tmp_path_factory.mktemp("own")
    write_pictures(tiny_data(), root / "pictures")
    recipe = RECIPE | {"data": {"source": str(root / "pictures"), "image_size": 16}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return root


@pytest.fixture(scope="package")
def run(folder: Path) -> Path:
    """A finished run."""
    out = folder / "run"
    result = edufast("train", folder / "recipe.yaml", "--out", out, "--json")
    accuracy = json.loads(result.stdout)["accuracy"]
    assert set(accuracy) == {"education", "scratch"} and 0 <= accuracy["education"]["0"] <= 1
    return out
