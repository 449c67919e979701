"""The methods of a recipe for tiny data."""

from __future__ import annotations

from edufast.experiments.method import METHODS, plan_methods
from edufast.experiments.recipe import parse_recipe
from tests.tiny import tiny_data

DATA = tiny_data()


def methods(names=tuple(METHODS), full=True, **changes):
    slices = ["0-1", "2-3", "4-5", *(["all"] if full else [])]
    content = {
        "name": "r",
        "data": {"source": "digits"},
        "student": {"model": "resnet8"},
        "teachers": [{"model": "resnet8", "classes": classes} for classes in slices],
        "curriculum": {"preset": "default", "epochs": 10, "samples": 100},
        "algorithm": {"name": "kd", "temperature": 2.0, "alpha": 0.6},
        "training": {"batch_size": 16},
    }
    return plan_methods(parse_recipe(content | changes), DATA, names)
