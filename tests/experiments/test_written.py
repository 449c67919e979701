"""What a recipe says is checked before anything is decided, and before torch is loaded."""

from __future__ import annotations

import pytest

from edufast.experiments.recipe import read_recipe, shipped_recipes
from edufast.experiments.written import as_written, check_keys, is_open, merged
from edufast.utils.errors import UserError


def test_a_recipe_with_minutes_is_open():
    assert is_open(read_recipe("folder")) and not is_open(read_recipe("quickstart"))
    assert not is_open({"minutes": None})


def test_what_is_said_is_checked_before_anything_is_decided():
    with pytest.raises(UserError, match=r"training\.lr: found -1"):
        as_written(read_recipe("folder", ["training.lr=-1"]), "folder")
    with pytest.raises(UserError, match="minutes: found 0"):
        as_written(read_recipe("folder", ["minutes=0"]), "folder")
    with pytest.raises(UserError, match="mintues: unknown key; did you mean 'minutes'"):
        as_written(read_recipe("folder", ["mintues=3"]), "folder")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_have_known_keys(name):
    check_keys(name, ["training.lr=0.05"])


def test_a_slip_is_told_key_by_key_and_what_options_say_is_not_missed(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nstudent: {modle: resnet8}\ncurriculum: {epochs: 3}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: student\.modle: unknown key; did you mean"):
        check_keys(str(recipe), [])
    recipe.write_text("name: mine\nstudent: {model: resnet8}\ncurriculum: {epochs: 3}\n")
    check_keys(str(recipe), [])  # its data are those of --data
    with pytest.raises(UserError, match=r"training\.balance: found 2"):
        check_keys(str(recipe), ["training.balance=2"])
    with pytest.raises(UserError, match="trainnig: unknown key"):
        check_keys("folder", ["trainnig.lr=1"])


def test_keys_above_hide_those_below():
    below = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": {"f": 1}}
    above = {"a": {"c": 3}, "d": [4], "e": 5, "g": 6}
    assert merged(below, above) == {"a": {"b": 1, "c": 3}, "d": [4], "e": 5, "g": 6}
    assert below["a"] == {"b": 1, "c": 2}
    assert merged({"a": None}, {"a": {"b": 1}}) == {"a": {"b": 1}}
