"""Expected costs are those that a School counts, to the last FLOP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from edufast.data import load_dataset
from edufast.data.outline import OUTLINES
from edufast.experiments.cost import expected_cost
from edufast.experiments.method import plan_methods
from edufast.experiments.recipe import (
    Recipe,
    parse_recipe,
    read_recipe,
    shipped_recipes,
)
from edufast.experiments.teacher_training import load_teacher, train_teacher
from edufast.experiments.written import as_written
from edufast.models.weights import read_info
from edufast.teachers.faculty import Faculty
from edufast.utils.event_log import EventLog

SLICES = [{"model": "resnet8", "classes": c} for c in ("0-2", "3-6", "7-9")]


def small(**changes) -> Recipe:
    content = {
        "name": "r",
        "data": {"source": "digits", "image_size": 8, "holdout": 0.6},
        "student": {"model": "resnet8"},
        "teachers": [*SLICES, {"model": "resnet14"}],
        "teacher_epochs": 1,
        "curriculum": {"epochs": 3, "samples": 100},
        "training": {"batch_size": 32, "augment": {"pad": 1, "flip": False}},
    }
    return parse_recipe(content | changes)


# Every target, both orders, rehearsal, kept exits, and batches that are not full.
@pytest.mark.parametrize(
    "recipe",
    [
        small(),
        small(teachers=SLICES, curriculum={"preset": "paper", "epochs": 3}),
        small(
            teacher_epochs=2,
            teacher_image_sizes=[6],
            curriculum={"epochs": 4, "samples": 100, "image_sizes": [4, 5, 6]},
        ),
        small(
            teachers=SLICES,
            curriculum={
                "exit_weight": 0.3,
                "grades": [
                    {"epochs": 2, "teachers": [0], "target": "routed", "samples": 50},
                    {"epochs": 1, "teachers": [0, 1], "target": "routed"},
                    {
                        "epochs": 2,
                        "classes": "7-9",
                        "teachers": [0, 1],
                        "target": "routed",
                        "freeze": [0.1, 0.5],
                        "rehearsal": 0.2,
                    },
                ],
            },
            training={"batch_size": 48, "augment": {"pad": 1, "flip": False}},
        ),
    ],
    ids=["default", "paper", "sizes", "explicit"],
)
def test_as_a_school_counts(recipe: Recipe, tmp_path: Path) -> None:
    data = recipe.data.load()
    education = plan_methods(recipe, data, ["education"])["education"]
    teachers, taught = [], 0
    for k, classes in enumerate(recipe.teacher_classes(data)):
        path = tmp_path / f"{k}.safetensors"
        event_log = EventLog(tmp_path / f"{k}.jsonl")
        train_teacher(
            recipe, k, data, path, device="cpu", checkpoint=tmp_path / f"{k}.pt",
            event_log=event_log, console=Console(quiet=True),
        )  # fmt: skip
        teachers.append(load_teacher(path, k, classes, data, recipe.teachers[k]))
        if k in education.teachers:  # what nobody asks is not trained in a run
            taught += read_info(path).training_flops
    school = education.create_school(0, Faculty(teachers), device="cpu")
    school.fit()
    cost, at = expected_cost(recipe), school.progress
    assert cost is not None
    assert cost.samples == at.samples
    assert cost.student_flops == at.student_flops
    assert sum(cost.forward_flops) == at.teacher_flops
    assert sum(cost.teaching_flops) == taught
    assert cost.flops == at.student_flops + at.teacher_flops + taught
    assert expected_cost(recipe, data) == cost


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_what_is_known_of_a_data_set_is_so(name: str) -> None:
    data = load_dataset(name)
    assert tuple(np.bincount(data.train.labels)) == OUTLINES[name].train
    assert data.image_size == OUTLINES[name].image_size


def test_weights_that_are_there_cost_no_training(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    taught = [{**teacher, "weights": str(weights)} for teacher in SLICES]
    cost = expected_cost(small(teachers=taught))
    assert cost is not None and set(cost.teaching_flops) == {0} and min(cost.forward_flops) > 0


def test_every_shipped_recipe_has_a_cost_but_that_for_folders() -> None:
    state = torch.get_rng_state()
    recipes = {name: as_written(read_recipe(name), name) for name in shipped_recipes()}
    unknown = [name for name, recipe in recipes.items() if expected_cost(recipe) is None]
    assert unknown == ["folder"]
    assert torch.equal(torch.get_rng_state(), state)
