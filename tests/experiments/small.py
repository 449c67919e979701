"""A recipe that is taught in a second: real models on tiny data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from edufast.experiments.recipe import MethodName, Recipe, parse_recipe
from edufast.experiments.run_folder import RunConfig
from edufast.experiments.run_setup import Setup
from tests.tiny import tiny_data

QUIET = Console(quiet=True)


def small_recipe(**changes: Any) -> Recipe:
    content = {
        "name": "small",
        "data": {"source": "digits"},  # what is loaded is tiny_data()
        "student": {"model": "resnet8"},
        "teachers": [{"model": "resnet8", "classes": classes} for classes in ("0-2", "3-5")],
        "teacher_epochs": 1,
        "curriculum": {"epochs": 3, "shares": [1, 2]},
        "training": {"batch_size": 16, "augment": {"pad": 1, "flip": False}},
    }
    return parse_recipe(content | changes)


def small_config(*methods: MethodName, **changes: Any) -> RunConfig:
    recipe = small_recipe(**changes.pop("recipe", {}))
    return RunConfig(**{"methods": methods, "seeds": (0,), "recipe": recipe, **changes})


def small_setup(folder: Path, *methods: MethodName, **changes: Any) -> Setup:
    return Setup(small_config(*methods, **changes), folder, QUIET, lambda section: tiny_data())
