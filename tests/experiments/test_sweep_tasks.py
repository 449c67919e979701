"""What a sweep trains: which teachers are shared, and what waits for what."""

import pytest
import yaml

from edufast.data import Augment
from edufast.experiments import sweep_tasks
from edufast.experiments.recipe import parse_recipe
from edufast.experiments.sweep_config import SweepConfig, with_variants
from edufast.experiments.sweep_tasks import plan_tasks
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from edufast.teachers.logit_store import countable_views
from edufast.utils.errors import UserError

CROPS = Augment(random_resized_crop=(0.5, 1.0))

INFO = ModelInfo(
    "resnet8", tuple("abcdefghi"), tuple(range(9)), "x", 32, (0.4,) * 3, (0.2,) * 3, 0.9, 1
)


# What a variant changes, and how many of its two teachers can be those of the plain recipe (nobody
# asks the one of the last slice).
@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"training.lr": 0.5}, 2),  # `teaching` says how teachers are trained
        ({"teaching.lr": 0.5}, 0),
        ({"teacher_epochs": 2}, 0),
        ({"teacher_samples": 8}, 0),
        ({"teachers.0.epochs": 5}, 1),
        ({"teachers.0.epochs": 1}, 2),  # as teacher_epochs says
        ({"student.model": "resnet14"}, 2),
        ({"seed": 1}, 0),
        ({"data.seed": 1}, 0),
    ],
)
def test_variants_share_the_teachers_that_are_the_same(recipe, tmp_path, changes, shared):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    both = base.model_copy(update={"variants": {"plain": {}, "changed": changes}})
    tasks = plan_tasks(SweepConfig(recipe=both, seeds=1), tmp_path)
    assert len(tasks.teachers) == 4 - shared


def test_each_seed_has_its_teachers_and_data(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    config = SweepConfig(recipe=base, seeds=4, teacher_seeds=2, data_seeds=3)
    students = [task for task in plan_tasks(config, tmp_path).students if task.variant == "kd"]
    assert [task.recipe.seed for task in students] == [0, 1, 0, 1]
    assert [task.recipe.data.seed for task in students] == [0, 1, 2, 0]


def test_equal_time_waits_for_its_reference(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    tasks = plan_tasks(SweepConfig(recipe=base, seeds=2, equal="time"), tmp_path)
    references = {task.name: task.reference for task in tasks.students}
    assert references["kd, seed 1"] == tmp_path / "runs" / "graded-1"
    assert references["graded, seed 1"] is None
    order = [task.product.name for task in tasks.in_order() if task in tasks.students]
    assert order[:3] == ["graded-0", "plain-0", "kd-0"]
    with pytest.raises(UserError, match="expected a variant with the method education"):
        only = with_variants(base, only=["kd"])
        plan_tasks(SweepConfig(recipe=only, seeds=2, equal="time"), tmp_path)


def test_students_of_the_same_teachers_share_their_logits(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    features, weights = {"algorithm": {"name": "at"}}, tmp_path / "w.safetensors"
    info = ModelInfo("resnet8", tuple("ab"), (0, 1), "x", 32, (0.5,) * 3, (0.5,) * 3, 0.9, 1)
    save_model(weights, create_model("resnet8", 2), info)
    variants = {
        "a": {}, "b": {"training.lr": 0.2}, "other teachers": {"teacher_epochs": 2},
        "other views": {"training.augment.pad": 2}, "no teachers": {"method": "grades"},
        "features": features, "altered images": {"training.erase": 0.5},
        "other normalisation": {"student.weights": str(weights)},
    }  # fmt: skip
    both = base.model_copy(update={"variants": variants})
    config = SweepConfig(recipe=both, seeds=2, teacher_seeds=2, cache=True)
    caches = {task.name: task.cache for task in plan_tasks(config, tmp_path).students}
    assert caches["a, seed 0"] == caches["b, seed 0"] and caches["a, seed 0"].is_absolute()
    assert caches["no teachers, seed 0"] is caches["features, seed 0"] is None
    assert caches["altered images, seed 0"] is None
    names = ("other teachers", "other views", "other normalisation")
    others = [caches[f"{name}, seed 0"] for name in names]
    assert len({caches["a, seed 0"], caches["a, seed 1"], *others}) == 5
    without = config.model_copy(update={"cache": False})
    assert {task.cache for task in plan_tasks(without, tmp_path).students} == {None}


def test_views_that_cannot_be_counted_are_told_before_anything_is_trained(
    recipe, tmp_path, monkeypatch
):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    config = SweepConfig(recipe=base, seeds=1, cache=True)
    monkeypatch.setattr(sweep_tasks, "countable_views", lambda _, n: countable_views(CROPS, n))
    with pytest.raises(UserError, match="random resized crops have too many views"):
        plan_tasks(config, tmp_path)


def test_more_views_than_a_cache_holds_are_told_before_anything_is_trained(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    many = {"many": {"training.augment.replay": 10**12}}
    config = SweepConfig(recipe=base.model_copy(update={"variants": many}), seeds=1, cache=True)
    with pytest.raises(UserError, match="1000000000000 views of each of"):
        plan_tasks(config, tmp_path)


def test_a_teacher_that_starts_from_weights_is_trained_once_and_then_taken_as_it_is(
    recipe, tmp_path
):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    weights = tmp_path / "w.safetensors"
    save_model(weights, create_model("resnet8", 9), INFO)
    changes = {"teachers.0.weights": str(weights), "teachers.0.epochs": 3}
    both = base.model_copy(update={"variants": {"plain": {}, "started": changes}})
    tasks = plan_tasks(SweepConfig(recipe=both, seeds=1), tmp_path)
    (made,) = [t for t in tasks.teachers.values() if t.recipe.teachers[t.k].weights == weights]
    (student,) = [task for task in tasks.students if task.variant == "started"]
    section = student.recipe.teachers[0]
    assert section.finished == section.weights == made.product.absolute()
    assert made.product in student.teachers


def test_two_variants_of_one_folder_are_refused(recipe, tmp_path):
    base = parse_recipe(yaml.safe_load(recipe.read_text()))
    alike = base.model_copy(update={"variants": {"a b": {}, "a/b": {"training.lr": 0.2}}})
    with pytest.raises(UserError, match="two names make the same folder name"):
        plan_tasks(SweepConfig(recipe=alike, seeds=1), tmp_path)
