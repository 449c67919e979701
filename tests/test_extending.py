"""docs/extending.md: its package is trained, resumed, swept and exported by its recipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import edufast
from edufast.data import DATA_SETS, load_dataset
from edufast.distill import ALGORITHMS, WEIGHTINGS, create_algorithm
from edufast.experiments.recipe import load_recipe
from edufast.models.weights import read_info
from edufast.models.zoo import MODELS, create_model
from edufast.teachers.targets import TARGETS
from edufast.utils.errors import UserError
from tests.commands import edufast as edufast_command
from tests.commands import one_line

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```\w+\n# ([\w/.]+)\n(.*?)```", PAGE, re.DOTALL))
ENTRY_POINTS = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
DECORATED = re.findall(r"```python\n(import edufast.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The page's files, in a folder that is not on the path."""
    root = tmp_path_factory.mktemp("project")
    for name, content in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.fixture(scope="module")
def run(project):
    """Trained by a process of its own that looks for the package where PYTHONPATH says."""
    out = project / "run"
    subprocess.run(
        [sys.executable, "-m", "edufast", "train", project / "recipe.yaml", "--out", out],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(project)},
        check=True,
    )
    return out


def refused(*arguments) -> str:
    """What a command says that ends with code 2."""
    return one_line(edufast_command(*arguments, code=2))


@pytest.fixture
def importable(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def test_the_page_has_a_package_with_all_five_kinds():
    modules = {"losses", "weights", "targets", "nets", "data"}
    assert set(FILES) == {"recipe.yaml", *(f"mypackage/{name}.py" for name in modules)}
    assert len(DECORATED) == 1


def test_the_recipe_trains_a_student_and_exports_it(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (result,) = (line for line in lines if line["event"] == "result")
    assert result["accuracy"] > 0.3 and result["samples"] == 3 * 160
    assert read_info(run / "student.safetensors").model == "mypackage.nets:tiny"
    assert (run / "student.onnx").is_file()


def test_without_its_package_a_run_does_not_resume(run):
    message = "config.yaml: recipe: algorithm 'mypackage.losses:Careful': there is no module"
    assert message in refused("resume", run)


@pytest.mark.usefixtures("importable")
def test_a_run_resumes_from_its_config_alone(run):
    (run / "student.onnx").unlink()
    edufast_command("resume", run)
    assert (run / "student.onnx").is_file()


@pytest.mark.usefixtures("importable")
def test_the_processes_of_a_sweep_find_the_package(project):
    out = project / "sweep"
    result = edufast_command(
        "sweep", project / "recipe.yaml", "--out", out, "--seeds", 1, "--jobs", 2, "--json",
        "--vary", "algorithm.weighting=mean,mypackage.weights:by_certainty",
    )  # fmt: skip
    variants = json.loads(result.stdout)["variants"]
    assert [variant["seeds"] for variant in variants] == [[0], [0]]
    assert len(list((out / "logs").glob("worker*.log"))) == 2


@pytest.mark.usefixtures("importable")
def test_a_run_folder_is_exported_by_its_recipe_and_a_file_as_the_user_says(run, tmp_path):
    edufast_command("export", run, "--out", tmp_path / "run.onnx")
    weights = tmp_path / "foreign.safetensors"
    weights.write_bytes((run / "student.safetensors").read_bytes())
    model = ("--model", "mypackage.nets:tiny")
    message = "holds a model of 'mypackage.nets:tiny', and building that runs code"
    assert message in refused("export", weights)
    message = "was trained on 'mypackage.data:squares', and reading that runs code"
    assert message in refused("export", weights, *model)
    assert not weights.with_suffix(".onnx").exists()
    edufast_command("export", weights, *model, "--data", "mypackage.data:squares")
    assert weights.with_suffix(".onnx").is_file()


@pytest.mark.usefixtures("importable")
def test_wrong_paths_are_told_with_the_key_of_the_recipe(project):
    recipe = str(project / "recipe.yaml")

    def told(*changes: str) -> str:
        with pytest.raises(UserError) as caught:
            loaded = load_recipe(recipe, changes)
            data = loaded.data.load()
            loaded.create_student_model(len(data.classes))
            for k in range(len(loaded.teachers)):
                loaded.create_teacher_model(k, len(data.classes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for changes, message in {
        "algorithm.name=mypackage.losses:Carefull": "did you mean 'Careful'",
        "algorithm.extre=1": "option is 'extre'; did you mean 'extra'?",
        "algorithm.weighting=mypackage.weights:certainty": "did you mean 'by_certainty'",
        "curriculum.grades.0.target=mypackage.targets:by_scal": "did you mean 'by_scale'",
        "student.model=mypackage.net:tiny": "student: model 'mypackage.net:tiny': there is no mod",
        "teachers.1.model=mypackage.nets:nn": "teachers.1: model 'mypackage.nets:nn' is a module",
        "data.source=mypackage.data:square": "data source 'mypackage.data:square'",
    }.items():
        assert message in told(changes)


@pytest.mark.usefixtures("importable")
def test_the_weighting_prefers_the_teacher_that_is_sure():
    from edufast.distill import TeacherOutputs

    answers = [torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.1, 0.0], [9.0, 0.0]])]
    rows = [slice(0, 2)] * 2
    outputs = TeacherOutputs(answers, None, "mean", rows, [], torch.arange(2))
    found = WEIGHTINGS.find("mypackage.weights:by_certainty")(answers[0], outputs, None, 0.5)
    assert found[0, 0] > 0.6 and found[1, 1] > 0.6
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_the_decorator_registers_the_name(monkeypatch):
    monkeypatch.setattr(ALGORITHMS, "_entries", dict(ALGORITHMS._entries))
    scope = {"__name__": "a_users_script"}
    exec(DECORATED[0], scope)
    assert scope["algorithm"].alpha == 0.2
    assert create_algorithm("soft_kd").temperature == 8.0
    for name in ("register_model", "register_data_set", "register_weighting", "register_target"):
        assert callable(getattr(edufast, name))


@pytest.mark.usefixtures("importable")
def test_the_entry_points_of_the_page_are_those_that_are_read(project):
    tomllib = pytest.importorskip("tomllib")
    groups = tomllib.loads(ENTRY_POINTS)["project"]["entry-points"]
    registries = {
        registry.group: registry
        for registry in (ALGORITHMS, WEIGHTINGS, TARGETS, MODELS, DATA_SETS)
    }
    assert set(groups) == set(registries)
    info = project / "mypackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    text = "".join(
        f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in entries.items())
        for group, entries in groups.items()
    )
    (info / "entry_points.txt").write_text(text)
    for group, entries in groups.items():
        for name, path in entries.items():
            assert registries[group].find(name) is registries[group].find(path)
    assert create_algorithm("careful", weighting="by_certainty").extra == 1.0
    assert len(load_dataset("squares").classes) == 4
    assert create_model("tiny", 4)[-1].out_features == 4
