"""Recipes that leave things open: they are decided once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edufast.experiments.open_recipe as open_recipe
from edufast.experiments.open_recipe import complete, flattened
from edufast.experiments.pace import Speeds
from edufast.experiments.recipe import load_recipe, read_recipe
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.experiments.written import merged
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.commands import write_pictures
from tests.tiny import tiny_data


class Machine:
    """Takes the place of measuring; every speed is ten times the one before."""

    asked = 0

    def __init__(self, *_: object) -> None:
        Machine.asked += 1

    def speeds(self, model: str, image_size: int) -> Speeds:
        return Speeds(10.0 ** (8 + Machine.asked), 1e10)

    def loading(self, *_: object) -> float:
        return 0.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    monkeypatch.setattr(open_recipe, "Pace", Machine)
    monkeypatch.setattr(Machine, "asked", 0)
    return Machine


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    write_pictures(tiny_data(), tmp_path / "pictures")
    return read_recipe("folder", [f"data.source={tmp_path / 'pictures'}", "minutes=1"])


def test_what_is_left_out_is_decided_and_what_is_set_stays(content, machine, tmp_path):
    content["training"] = {"lr": 0.07, "augment": {"flip": False}}
    recipe, decisions = complete(content, "folder", "cpu", tmp_path / "run")
    by_key = {decision.key: decision for decision in decisions}
    assert recipe.training.lr == 0.07 and by_key["training.lr"].reason == "set by you"
    assert not recipe.training.augment.flip
    assert recipe.training.augment.random_resized_crop == (0.35, 1.0)
    assert recipe.data.image_size == 16 and recipe.student.model == "resnet8"
    written = recipe.model_dump(mode="json")
    for key, decision in by_key.items():
        value: Any = written
        for part in key.split("."):
            value = value[part]
        assert (value is None) == (decision.value is None) and decision.said, key
        if isinstance(value, int | float | str):
            assert value == decision.value


def test_pictures_that_are_left_out_are_not_counted(content, machine, tmp_path):
    """Most of a class: as rare as it is then, its pictures are shown more often."""
    first = sorted((tmp_path / "pictures" / "train").iterdir())[0]
    few = sorted(first.iterdir())[3:]
    (tmp_path / "list.csv").write_text("picture\n" + "\n".join(map(str, few)))
    even, _ = complete(merged(content, {}), "folder", "cpu", tmp_path / "run")
    content["data"]["leave_out"] = str(tmp_path / "list.csv")
    uneven, _ = complete(content, "folder", "cpu", tmp_path / "run")
    assert even.training.balance == 0 and uneven.training.balance == 0.5


def test_a_recipe_that_leaves_nothing_open_needs_no_decisions(machine, tmp_path):
    recipe, decisions = complete(read_recipe("quickstart"), "quickstart", "cpu", tmp_path)
    assert recipe == load_recipe("quickstart").with_absolute_paths() and decisions == ()
    assert machine.asked == 0


def test_a_run_that_exists_keeps_what_was_decided(content, machine, tmp_path):
    """The machine may have become faster, and other pictures may be there."""
    first, decisions = complete(content, "folder", "cpu", tmp_path / "run")
    config = RunConfig(recipe=first, decisions=decisions, methods=("education",), seeds=(0,))
    RunFolder(tmp_path / "run").claim(config)
    again = read_recipe("folder", [f"data.source={tmp_path / 'pictures'}", "minutes=1"])
    assert complete(again, "folder", "cpu", tmp_path / "run") == (first, decisions)
    assert machine.asked == 1
    other, _ = complete({**again, "minutes": 2, "seed": 3}, "folder", "cpu", tmp_path / "run")
    assert (other.minutes, other.seed, other.curriculum) == (2, 3, first.curriculum)


def test_keys_are_told_with_their_sections():
    assert flattened({"a": {"b": [1], "c": {}}, "d": 2}) == {
        "a": {"b": [1], "c": {}}, "a.b": [1], "a.c": {}, "d": 2
    }  # fmt: skip


def test_weights_of_the_student_are_read_before_anything_is_measured(content, machine, tmp_path):
    info = ModelInfo("resnet8", ("a", "b"), (0, 1), "x", 8, (0.4,) * 3, (0.2,) * 3, 0.9, 1)
    save_model(tmp_path / "w.safetensors", create_model("resnet8", 2), info)
    content["student"] = {"weights": str(tmp_path / "w.safetensors")}
    with pytest.raises(UserError, match=r"student\.model: missing; expected the model of stu"):
        complete(content, "folder", "cpu", tmp_path / "run")
    content["student"]["model"] = "resnet8"
    recipe, _ = complete(content, "folder", "cpu", tmp_path / "run")
    assert recipe.data.image_size == 8 and recipe.student.weights.name == "w.safetensors"
    content["student"]["model"] = "resnet14"
    machine.asked = 0
    with pytest.raises(UserError, match="holds the weights of resnet8; expected those of resnet14"):
        complete(content, "folder", "cpu", tmp_path / "run")
