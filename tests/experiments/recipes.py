"""Contents of a recipe, for tests of what recipes may say."""

from __future__ import annotations

from typing import Any


def content(**changes: Any) -> dict[str, Any]:
    recipe = {
        "name": "r",
        "data": {"source": "digits"},
        "student": {"model": "resnet8"},
        "teachers": [
            {"model": "resnet14", "classes": "0-1"},
            {"model": "resnet14", "classes": [2, 3]},
            {"model": "resnet14", "classes": "4,5"},
        ],
        "curriculum": {"preset": "default", "epochs": 8},
    }
    return recipe | changes
