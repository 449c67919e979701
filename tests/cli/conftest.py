"""A folder of pictures of one's own, and a run on it."""

from __future__ import annotations

import json

import pytest
import yaml
from PIL import Image

from tests.cli.commands import edufast
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


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Pictures in class folders, and a recipe for them."""
    root = tmp_path_factory.mktemp("own")
    data = tiny_data()
    for split, samples in (("train", data.train), ("val", data.val)):
        for number, (image, label) in enumerate(zip(samples.images, samples.labels, strict=True)):
            path = root / "pictures" / split / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    recipe = RECIPE | {"data": {"source": str(root / "pictures"), "image_size": 16}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return root


@pytest.fixture(scope="session")
def run(folder):
    """A finished run."""
    out = folder / "run"
    result = edufast("train", folder / "recipe.yaml", "--out", out, "--json")
    accuracy = json.loads(result.stdout)["accuracy"]
    assert set(accuracy) == {"education", "scratch"} and 0 <= accuracy["education"]["0"] <= 1
    return out
