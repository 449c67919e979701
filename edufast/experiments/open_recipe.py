"""Recipes that leave things open: decided, and kept."""

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
from edufast.experiments.written import as_written, merged


def complete(
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
    recipe = as_written(content, source)
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
    return parse_recipe(content, source).with_absolute_paths(), tuple(decisions)


def _kept(content: dict[str, Any], source: str, kept: RunConfig) -> Recipe:
    """``content`` with what it leaves out as an earlier start of the run decided."""
    known = kept.recipe.model_dump(mode="json")
    return parse_recipe(merged(known, content), source).with_absolute_paths()


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key with dots, sections included, and its value."""
    keys: dict[str, Any] = {}
    for name, value in content.items():
        keys[prefix + name] = value
        if isinstance(value, Mapping):
            keys |= flattened(value, f"{prefix}{name}.")
    return keys
