"""Which variants a sweep runs."""

import os
import subprocess
import sys

import pytest
import yaml

from edufast.experiments.recipe import parse_recipe
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.sweep_config import SweepConfig, with_variants
from edufast.utils.errors import UserError
from tests.experiments.small import small_config


def test_vary_makes_every_combination(recipe):
    base = parse_recipe(yaml.safe_load(recipe.read_text()) | {"variants": {}})
    assert list(with_variants(base).variants) == [
        "scratch", "kd", "routed", "alone", "grades", "education",
    ]  # fmt: skip
    varied = with_variants(base, ["method=alone,education", "training.lr=0.1,0.2"]).variants
    assert varied["method=alone, training.lr=0.2"] == {"method": "alone", "training.lr": 0.2}
    assert len(varied) == 4
    lists = with_variants(base, ["curriculum.shares=[1,1],[1,6]"]).variants
    assert [v["curriculum.shares"] for v in lists.values()] == [[1, 1], [1, 6]]
    own = base.model_copy(update={"variants": {"a": {"training.lr": 0.3}}})
    assert with_variants(own, ["seed=1,2"]).variants == {
        "a, seed=1": {"training.lr": 0.3, "seed": 1},
        "a, seed=2": {"training.lr": 0.3, "seed": 2},
    }


def test_variants_that_are_the_same_training_are_refused(recipe):
    base = parse_recipe(yaml.safe_load(recipe.read_text()) | {"variants": {}})
    for vary in (["name=a,b"], ["baselines=[],[kd]"]):
        with pytest.raises(UserError, match="are the same training; expected one"):
            with_variants(base, vary)
    assert len(with_variants(base, ["seed=0,1", "budget.flash=1M,2M"]).variants) == 4


def test_a_sweep_is_written_alike_in_any_locale(recipe, tmp_path):
    named = yaml.safe_load(recipe.read_text()) | {"variants": {"größer": {"training.lr": 0.2}}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(named, allow_unicode=True), encoding="utf-8")
    code = """if True:
        import pathlib, sys
        from edufast.experiments.recipe import load_recipe
        from edufast.experiments.sweep_config import SweepConfig
        SweepConfig(seeds=1, recipe=load_recipe(sys.argv[1])).write(pathlib.Path(sys.argv[2]))
    """
    posix = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", code, path, tmp_path], env=posix, check=True)
    assert list(SweepConfig.read(tmp_path).recipe.variants) == ["größer"]


def test_a_folder_is_of_a_run_or_of_a_sweep(recipe, tmp_path):
    """A sweep would replace the run's event log, and a run the sweep's."""
    sweep = SweepConfig(seeds=1, recipe=parse_recipe(yaml.safe_load(recipe.read_text())))
    (tmp_path / "run").mkdir()
    (tmp_path / "sweep").mkdir()
    run = small_config("scratch")
    RunFolder(tmp_path / "run").claim(run)
    sweep.write(tmp_path / "sweep")
    with pytest.raises(UserError, match="run holds a run, not a sweep; expected another folder"):
        sweep.continuing(tmp_path / "run")
    with pytest.raises(UserError, match="sweep holds a sweep, not a run; expected another folder"):
        RunFolder(tmp_path / "sweep").claim(run)
    assert sweep.continuing(tmp_path / "sweep").seeds == 1
    assert RunFolder(tmp_path / "run").holds(run)


def test_a_sweep_of_more_seeds_than_memory_is_refused(recipe, tmp_path):
    config = SweepConfig(seeds=10_000, recipe=parse_recipe(yaml.safe_load(recipe.read_text())))
    config.write(tmp_path)
    assert SweepConfig.read(tmp_path) == config
    file = tmp_path / "sweep.yaml"
    file.write_text(file.read_text().replace("seeds: 10000", f"seeds: {2**62}", 1))
    with pytest.raises(UserError, match=f"seeds: found {2**62}; .* less than or equal to 10000"):
        SweepConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=2024-01-01", "--vary seed=2024-01-01: Object of type date"),
        ("seed={2024-01-01: 1}", "--vary seed={2024-01-01: 1}: keys must be str"),
        ("seed=\n", "--vary seed=: expected key.subkey=value,value"),
        ("se\ned=1", "--vary se ed=1: expected key.subkey=value,value"),
        ("seed=\n:", "--vary seed= :: not valid YAML"),
    ],
)
def test_values_that_no_key_can_have_are_told_in_one_line(recipe, text, message):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    with pytest.raises(UserError) as caught:
        with_variants(base, [text])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
