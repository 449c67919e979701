"""A sweep's recipe for a tiny folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.commands import write_pictures
from tests.tiny import tiny_data

RECIPE = {
    "name": "tiny",
    "data": {"source": "?", "image_size": 16},
    "student": {"model": "resnet8"},
    "teachers": [
        {"model": "resnet8", "classes": "0-2"},
        {"model": "resnet8", "classes": "3-5"},
        {"model": "resnet8", "classes": "all"},
    ],
    "teacher_epochs": 1,
    "curriculum": {"preset": "default", "epochs": 3, "shares": [1, 2], "samples": 32},
    "training": {"batch_size": 16, "augment": {"pad": 1, "flip": False}},
    "teaching": {"batch_size": 16, "augment": {"pad": 1, "flip": False}},
    "variants": {
        "plain": {"method": "scratch"},
        "kd": {"method": "kd", "algorithm.alpha": 0.5},
        "graded": {"curriculum.exit_weight": 0.3},
    },
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    write_pictures(tiny_data(per_class=8), root / "pictures")
    content = RECIPE | {"data": {"source": str(root / "pictures"), "image_size": 16}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return root / "recipe.yaml"
