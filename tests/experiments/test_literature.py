"""The commands of docs/literature.md mean what its table says, and run on a miniature."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest
import yaml

from edufast.experiments.recipe import load_recipe, parse_recipe, shipped_recipes
from edufast.experiments.sweep_config import with_variants
from tests.commands import edufast

PAIRS = [("resnet32x4", "resnet8x4"), ("resnet56", "resnet20"), ("wrn_40_2", "wrn_16_2")]


@pytest.fixture
def page(pytestconfig):
    return (pytestconfig.rootpath / "docs/literature.md").read_text("utf-8")


def options(command: list[str], name: str) -> list[str]:
    return [value for flag, value in itertools.pairwise(command) if flag == name]


def test_every_pair_has_its_command(page, pytestconfig):
    sweeps = [shlex.split(line) for line in page.splitlines() if line.startswith("edufast sweep")]
    for (teacher, student), command in zip(PAIRS, sweeps, strict=True):
        assert f"| {teacher} → {student} |" in page
        recipe = with_variants(
            load_recipe(str(pytestconfig.rootpath / command[2]), options(command, "--set"))
        )
        assert (recipe.student.model, recipe.teachers[0].model) == (student, teacher)
        assert list(recipe.variants) == ["alone", "kd", "crd", "dkd", "dist"]
        assert [grade.epochs for grade in recipe.curriculum.grades] == [240]
        assert recipe.curriculum.schedule == "paper"  # which tests/training/test_curriculum.py has


def test_recipes_named_on_the_page_are_shipped(page):
    named = re.findall(r"`edufast compare (\w+) --set data.source=(\w+):FOLDER`", page)
    assert len(named) == 7 and {name for name, _ in named} <= set(shipped_recipes())
    for name, source in named:
        assert load_recipe(name).data.source.startswith(f"{source}:")


def test_the_recipe_for_a_gpu_has_equal_budgets(pytestconfig):
    """Education once with 60 % of the samples, and always with whole batches."""
    text = (pytestconfig.rootpath / "benchmarks/literature/resnet20_gpu.yaml").read_text("utf-8")
    recipe = parse_recipe(yaml.safe_load(text))
    assert set(recipe.variants) == {
        "kd alone", "kd education, 60 %", "scratch", "kd education, 100 %", "kd alone, 60 %",
    }  # fmt: skip
    samples = [grade.samples for grade in recipe.curriculum.grades]
    changes = recipe.variants["kd education, 100 %"]
    longer = [changes[f"curriculum.grades.{g}.samples"] for g in range(4)]
    assert [round(0.6 * b / a, 2) for a, b in zip(samples, longer, strict=True)] == [1.0] * 4
    assert all(count % recipe.training.batch_size == 0 for count in samples + longer)


def test_the_sweep_runs_on_a_miniature(tmp_path, pytestconfig):
    small = [
        "data.source=digits", "student.model=resnet8", "teachers.0.model=resnet8",
        "teacher_epochs=1", "data.image_size=8",
        "curriculum.grades=[{epochs: 1, samples: 64, teachers: [0], target: full}]",
        *(f"variants.crd.algorithm.{x}" for x in ("negatives=16", "width=8")),
    ]  # fmt: skip
    changes = [part for change in small for part in ("--set", change)]
    source = pytestconfig.rootpath / "benchmarks/literature/cifar100.yaml"
    edufast("sweep", source, *changes, "--seeds", 1, "-o", tmp_path / "run")
    table = (tmp_path / "run/sweep.md").read_text("utf-8")
    assert all(f"| {name} " in table for name in ("alone", "kd", "crd", "dkd", "dist"))
