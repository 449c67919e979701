"""Commands that tell, on a terminal of 80 columns."""

import json
import re

import pytest
import yaml

from edufast.cli import doctor
from edufast.experiments.cost import expected_cost
from edufast.experiments.recipe import load_recipe, shipped_recipes
from edufast.experiments.report.format import si
from tests.commands import edufast, words


@pytest.mark.parametrize(
    "command", [["recipes"], ["recipes", "cifar100_mobilenet"], ["recipes", "folder"], ["doctor"]]
)
def test_eighty_columns_take_every_word_whole(command):
    narrow, wide = (edufast(*command, columns=columns).stdout for columns in (80, 300))
    assert max(map(len, narrow.splitlines())) <= 80
    # What is measured differs from call to call.
    narrow, wide = (
        re.sub(r", about.*? machine,", ",", " ".join(t.split())) for t in (narrow, wide)
    )
    assert words(narrow) == words(wide)


def test_names_of_recipes_are_whole_however_long_a_folder_is_called(tmp_path, monkeypatch):
    (tmp_path / ("a" * 60) / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / ("a" * 60))
    assert set(shipped_recipes()) <= set(edufast("recipes", columns=80).stdout.split())


def test_recipes_says_what_is_shipped_and_where_data_is_to_be_had():
    listed = edufast("recipes").stdout
    rows = {line.split()[0]: line.split()[1:] for line in listed.splitlines() if line}
    assert rows["quickstart"] == ["glyphs", "4", "resnet14", "to", "resnet8"]
    assert set(shipped_recipes()) <= set(rows)
    assert rows["cifar100:"] == ["https://www.cs.toronto.edu/~kriz/cifar.html"]


def test_a_recipe_says_what_it_takes():
    told = " ".join(edufast("recipes", "quickstart").stdout.split())
    cost = expected_cost(load_recipe("quickstart"))
    assert f"{cost.samples:,} samples, {si(cost.student_flops, 'FLOP')} of training" in told
    assert f"{si(sum(cost.teaching_flops), 'FLOP')} of training" in told
    assert f"{si(sum(cost.forward_flops), 'FLOP')} of forward passes" in told
    assert f"total {si(cost.flops, 'FLOP')}, about " in told and "on this machine" in told


def test_a_recipe_of_ones_own_says_what_it_takes(tmp_path):
    content = load_recipe("quickstart").model_dump(mode="json") | {"name": "mine"}
    content["student"]["model"] = "resnet14"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    told = " ".join(edufast("recipes", tmp_path / "mine.yaml").stdout.split())
    assert told.startswith("recipe mine ") and "student resnet14: 19,968 samples" in told


def test_brackets_in_a_path_are_shown_as_they_are(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            load_recipe("cifar100_fast", ["data.source='[red] pictures'"]).model_dump(mode="json")
        )
    )
    assert "[red] pictures" in edufast("recipes", tmp_path / "mine.yaml").stdout


def test_a_recipe_of_unknown_images_has_no_total(tmp_path):
    content = load_recipe("cifar100_fast", ["data.source='.'"]).model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert "total depends on the number of images" in " ".join(
        edufast("recipes", tmp_path / "mine.yaml").stdout.split()
    )


def test_a_recipe_that_leaves_things_open_says_so():
    told = " ".join(edufast("recipes", "folder").stdout.split())
    assert "open settings are decided before a run begins, for 10 minutes" in told
    (row,) = (line for line in edufast("recipes").stdout.splitlines() if line.startswith("folder"))
    assert row.split() == ["folder", "your", "pictures", "decided", "for", "your", "pictures"]


def test_an_unknown_recipe_is_told_in_one_line():
    result = edufast("recipes", "quickstrat", code=2)
    assert result.stderr.startswith("edufast: recipe is 'quickstrat'; did you mean 'quickstart'?")
    assert result.stderr.count("\n") == 1


def test_doctor_tells_every_finding():
    checks = json.loads(edufast("doctor", "--json").stdout)
    assert checks == [vars(check) for check in doctor.diagnose()]
    told = words(edufast("doctor").stdout)
    for check in checks:
        assert set(words(check["what"] + " " + check["found"])) <= set(told), check


def test_doctor_fails_where_something_needed_is_broken(monkeypatch):
    broken = doctor.Check("operators", False, "missing", needed=True)
    monkeypatch.setattr(doctor, "diagnose", lambda: [broken])
    assert "--   operators   missing" in edufast("doctor", code=1).stdout
