"""Checks what a recipe says, before anything that it leaves open is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edufast.experiments.recipe import Recipe, parse_recipe, read_recipe
from edufast.experiments.schema import check
from edufast.utils.errors import UserError

# Takes the place of what is open while the rest is checked.
_STAND_IN: dict[str, Any] = {
    "student": {"model": "resnet8"},
    "curriculum": {"grades": [{"epochs": 1}]},
}
_OF_OPTIONS = {"data": {"source": "."}}  # which options of commands may add


def is_open(content: Mapping[str, Any]) -> bool:
    """Whether the recipe names minutes, within which what it leaves out is to be decided."""
    return content.get("minutes") is not None


def check_keys(recipe: str, overrides: Sequence[str]) -> None:
    """Check what is written, key by key, without loading torch: a slip is told within a second.

    Args:
        recipe: as :func:`edufast.experiments.recipe.read_recipe`, like ``overrides``.

    Raises:
        UserError: likewise; or a key is unknown, or has a value of a wrong type.
    """
    content = merged(_OF_OPTIONS, read_recipe(recipe, overrides))
    check(Recipe, _whole(content), recipe)


def as_written(content: Mapping[str, Any], source: str) -> Recipe:
    """What the recipe says, checked; what is open has stand-ins.

    Raises:
        UserError: the first thing wrong with it.
    """
    student = content.get("student")
    if isinstance(student, Mapping) and student.get("weights") and not student.get("model"):
        raise UserError(f"{source}: student.model: missing; expected the model of student.weights")
    return parse_recipe(_whole(content), source).with_absolute_paths()


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``above`` in which keys that it lacks, at any depth, are those of ``below``."""
    result = dict(below)
    for key, value in above.items():
        lower = below.get(key)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            value = merged(lower, value)
        result[key] = value
    return result


def _whole(content: Mapping[str, Any]) -> dict[str, Any]:
    return merged(_STAND_IN, content) if is_open(content) else dict(content)
