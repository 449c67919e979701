"""Recipes that leave things open: read, checked, decided, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edufast.data.survey import overview
from edufast.experiments import RUN_FILE
from edufast.experiments.decide import Decision, decide
from edufast.experiments.pace import Pace
from edufast.experiments.recipe import Recipe, parse_recipe
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.experiments.schema import override
from edufast.utils.errors import UserError

# Takes the place of what is open while the rest is checked.
_STAND_IN: dict[str, Any] = {
    "student": {"model": "resnet8"},
    "curriculum": {"grades": [{"epochs": 1}]},
}


def is_open(content: Mapping[str, Any]) -> bool:
    """Whether the recipe names minutes, within which what it leaves out is to be decided."""
    return content.get("minutes") is not None


def stated(content: Mapping[str, Any], source: str) -> Recipe:
    """What the recipe says, checked; what is open has stand-ins.

    Raises:
        UserError: the first thing wrong with it.
    """
    student = content.get("student")
    if isinstance(student, Mapping) and student.get("weights") and not student.get("model"):
        raise UserError(f"{source}: student.model: missing; expected the model of student.weights")
    whole = merged(_STAND_IN, content) if is_open(content) else dict(content)
    return parse_recipe(whole, source).located()


def closed(
    content: dict[str, Any],
    source: str,
    device: str,
    folder: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Recipe, tuple[Decision, ...]]:
    """The recipe with nothing left open, and the decisions that were made for that.

    Args:
        content: of a recipe, filled in place.
        source: named in errors.
        device: where the run will be; its speed is measured for a few seconds.
        folder: of the run. If it holds one already, its decisions count, and none is made anew.
        clock: whose minutes are meant, see :class:`edufast.experiments.pace.Pace`.

    Raises:
        UserError: the first thing wrong with the recipe or its data.
    """
    recipe = stated(content, source)
    if recipe.minutes is None:
        return recipe, ()
    if (folder / RUN_FILE).is_file():
        kept = RunFolder(folder).read_config()
        return _kept(content, source, kept), kept.decisions
    data = recipe.data
    found = overview(data.source, holdout=data.holdout, seed=data.seed, leave_out=data.leave_out)
    machine = Pace(device, recipe.training, clock)
    learned_at = None
    if recipe.student.weights is not None:  # downloaded before anything is measured
        images = recipe.start_student(found.classes).images
        learned_at = None if images is None else images.size
    decisions = decide(found, machine, recipe.minutes, flattened(content), learned_at)
    for decision in decisions:
        override(content, decision.key, decision.value, source)
    return parse_recipe(content, source).located(), tuple(decisions)


def _kept(content: dict[str, Any], source: str, kept: RunConfig) -> Recipe:
    """``content`` with what it leaves out as an earlier start of the run decided."""
    known = kept.recipe.model_dump(mode="json")
    return parse_recipe(merged(known, content), source).located()


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``above`` in which keys that it lacks, at any depth, are those of ``below``."""
    result = dict(below)
    for key, value in above.items():
        lower = below.get(key)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            value = merged(lower, value)
        result[key] = value
    return result


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key with dots, sections included, and its value."""
    keys: dict[str, Any] = {}
    for name, value in content.items():
        keys[prefix + name] = value
        if isinstance(value, Mapping):
            keys |= flattened(value, f"{prefix}{name}.")
    return keys
