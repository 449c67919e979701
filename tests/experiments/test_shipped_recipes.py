"""Every shipped recipe runs from teachers to student, on a miniature of its data."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from edufast.data import caltech256, glyphs
from edufast.experiments.open_recipe import complete
from edufast.experiments.recipe import load_recipe, read_recipe, shipped_recipes
from edufast.experiments.run import run
from edufast.experiments.run_folder import RunConfig, RunFolder
from tests.data import published

WRITERS = {
    "caltech256": published.write_caltech256,
    "cifar10": lambda parent: published.write_cifar10(parent, "bin"),
    "cifar100": lambda parent: published.write_cifar100_binary(parent, train=1, test=1),
    "food101": published.write_food101,
    "tiny_imagenet": lambda parent: published.write_tiny_imagenet(parent, train=1),
}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory) -> dict[str, Path]:
    """Folders of the data sets, written once; glyphs are drawn there when asked for."""
    folders = {name: write(tmp_path_factory.mktemp("data")) for name, write in WRITERS.items()}
    return {**folders, "glyphs": tmp_path_factory.mktemp("glyphs")}


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "folder"])
def test_runs_on_a_miniature(name, miniatures, tmp_path, monkeypatch):
    monkeypatch.setattr(caltech256, "TRAIN_PER_CLASS", 2)
    monkeypatch.setenv("EDUFAST_CACHE", str(miniatures["glyphs"]))
    monkeypatch.setattr(glyphs, "TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(glyphs, "VAL_PER_CLASS", 1)
    whole = load_recipe(name)
    data, _, _ = whole.data.source.partition(":")
    # The student and its cuts stay as they are; teachers, images and epochs are made small.
    changes = [
        f"data.image_size={8 if data == 'digits' else 32}", "baselines=[]",
        "teacher_epochs=1", "teacher_image_sizes=[]", "training.batch_size=32",
        *(f"teachers.{k}.model=resnet8" for k in range(len(whole.teachers))),
        *(
            change.format(g)
            for g in range(len(whole.curriculum.grades or ()))
            for change in ("curriculum.grades.{}.epochs=1", "curriculum.grades.{}.samples=64")
        ),
        *(() if whole.curriculum.grades else ("curriculum.epochs=4", "curriculum.samples=64")),
    ]  # fmt: skip
    if data in WRITERS:
        changes.append(f"data.source={data}:{miniatures[data]}")
    config = RunConfig(
        recipe=load_recipe(name, changes), methods=("education",), seeds=(0,), export=False
    )
    result = run(config, tmp_path / "run", Console(quiet=True))["education"][0]
    assert 0 <= result.accuracy <= 1
    epochs = len(whole.curriculum.grades or ()) or 4
    assert result.samples == epochs * 64 and result.teacher_flops > 0
    assert (tmp_path / "run" / "student.safetensors").is_file()


def test_folders_run_as_is_decided(tmp_path):
    for c in range(6):
        names = [f"{number}.jpg" for number in range(8)]
        published.write_images(tmp_path / "train" / f"class{c}", names, 40 * c)
        published.write_images(tmp_path / "val" / f"class{c}", names[:2], 40 * c)
    changes = [f"data.source={tmp_path}", "minutes=0.02", "data.image_size=32"]
    recipe, decisions = complete(read_recipe("folder", changes), "folder", "cpu", tmp_path / "run")
    config = RunConfig(
        recipe=recipe, decisions=decisions, methods=("education",), seeds=(0,), export=False
    )
    result = run(config, tmp_path / "run", Console(quiet=True))["education"][0]
    assert 0 <= result.accuracy <= 1 and result.samples >= 3 * 48
    kept = RunFolder(tmp_path / "run").read_config()
    assert kept.recipe == recipe and kept.decisions == decisions
