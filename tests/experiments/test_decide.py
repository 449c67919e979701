"""What a recipe leaves open is decided from the data, the machine, the minutes and what is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edufast.data import Augment, Samples
from edufast.data.survey import Overview
from edufast.experiments import decide as rules
from edufast.experiments.decide import decide
from edufast.experiments.pace import Speeds


class Machine:
    """Of a speed that does not depend on the network."""

    def __init__(self, flops: float = 1e11, loading: float = 0.0) -> None:
        self.flops, self._loading = flops, loading

    def speeds(self, model: str, image_size: int) -> Speeds:
        return Speeds(self.flops, 3 * self.flops)

    def loading(self, samples: Samples, image_size: int, augment: Augment) -> float:
        return self._loading


def pictures(*counts: int, side: int | None = 32) -> Overview:
    """Files, as many of each class."""
    labels = np.arange(len(counts), dtype=np.int64).repeat(counts)
    return Overview(len(counts), Samples((Path("a.jpg"),) * len(labels), labels), side)


def arrays(*counts: int) -> Overview:
    labels = np.arange(len(counts), dtype=np.int64).repeat(counts)
    return Overview(len(counts), Samples(np.zeros((len(labels), 32, 32, 3), np.uint8), labels), 32)


FEW = pictures(*[32] * 12)


def decided(
    found: Overview = FEW,
    machine: Machine | None = None,
    minutes: float = 10,
    learned_at: int | None = None,
    **given,
):
    """Values and reasons by key."""
    made = decide(found, machine or Machine(), minutes, given, learned_at)
    assert len({decision.key for decision in made}) == len(made)
    return {decision.key: (decision.value, decision.reason) for decision in made}


def values(*arguments: Any, **keywords: Any) -> dict[str, Any]:
    return {key: value for key, (value, _) in decided(*arguments, **keywords).items()}


def samples(grades: list[dict[str, Any]]) -> int:
    return sum(grade["epochs"] * grade["samples"] for grade in grades)


def seconds(value: dict[str, Any], machine: Machine) -> float:
    """That the grades take, by FLOPs that are counted here anew."""
    costs = rules._Costs(FEW, machine, Augment(), reduces=False)
    whole = value["data.image_size"]
    return sum(
        grade["epochs"] * grade["samples"]
        * costs.training(value["student.model"], grade["image_size"] or whole)
        for grade in value["curriculum.grades"]
    )  # fmt: skip


def test_every_decision_has_a_reason():
    for key, (_, reason) in decided().items():
        assert len(reason) > 10, key


def test_what_is_decided_makes_a_recipe_whole():
    assert set(values()) == {
        "training.batch_size", "training.augment", "data.reduce_to", "data.image_size",
        "student.model", "teachers", "curriculum.grades", "training.lr", "training.balance",
        "training.compile",
    }  # fmt: skip


@pytest.mark.parametrize("minutes", [0.5, 2, 6])
def test_the_grades_take_as_long_as_there_is(minutes):
    """But for their rounding to whole epochs and batches."""
    slow = Machine(2e10)
    found = values(machine=slow, minutes=minutes)
    assert seconds(found, slow) == pytest.approx(60 * minutes * rules._SHARE, rel=0.15)


def test_epochs_are_short_so_that_a_model_is_there_soon():
    slow = Machine(2e10)
    for grade in values(machine=slow, minutes=10)["curriculum.grades"]:
        costs = rules._Costs(FEW, slow, Augment(), reduces=False)
        spent = costs.training("resnet8", grade["image_size"] or 32)
        assert grade["samples"] * spent < 2 * rules._EPOCH_SECONDS


def test_more_passes_than_pay_are_not_made():
    grades = values(minutes=10_000)["curriculum.grades"]
    assert samples(grades) / len(FEW.train) == pytest.approx(rules._MOST, rel=0.1)
    assert "did not help" in decided(minutes=10_000)["curriculum.grades"][1]


def test_images_grow_and_neither_depth_nor_classes_do():
    grades = values()["curriculum.grades"]
    assert [grade["image_size"] for grade in grades] == [16, 24, None]
    assert [grade["fragments"] for grade in grades] == [1, 1, 1]
    assert [grade.get("classes") for grade in grades] == ["0-11", None, None]


@pytest.mark.parametrize(
    ("found", "given"),
    [(pictures(9, 9, side=16), {}), (FEW, {"student.model": "torchvision/mobilenet_v3_small"})],
)
def test_tiny_images_and_networks_of_unknown_needs_do_not_grow(found, given):
    (grade,) = values(found, **given)["curriculum.grades"]
    assert grade["image_size"] is None


def test_images_stay_whole_where_no_other_sizes_are_wanted():
    given = {"curriculum.image_sizes": []}
    (grade,) = values(machine=Machine(2e10), minutes=2, **given)["curriculum.grades"]
    grown = values(machine=Machine(2e10), minutes=2)["curriculum.grades"]
    assert grade["image_size"] is None
    assert samples([grade]) < samples(grown), "small images take less time"


def test_larger_networks_need_time_for_enough_passes():
    chosen = [values(minutes=m, machine=Machine(5e10))["student.model"] for m in (0.5, 2, 6, 100)]
    order = [rules._STUDENTS.index(model) for model in chosen]
    assert order == sorted(order) and order[0] == 0 and order[-1] == len(rules._STUDENTS) - 1


@pytest.mark.parametrize(
    ("side", "flops", "size"),
    [(32, 1e11, 32), (50, 1e12, 48), (1000, 1e14, 128), (1000, 1e10, 32), (20, 1e11, 20),
     (None, 1e11, 32)],
)  # fmt: skip
def test_images_are_as_large_as_the_pictures_and_the_time_allow(side, flops, size):
    found = pictures(*[32] * 12, side=side)
    assert values(found, Machine(flops))["data.image_size"] == size


def test_pictures_that_take_long_to_load_leave_less_steps():
    quick, slow = (
        samples(values(machine=Machine(loading=loading), minutes=1)["curriculum.grades"])
        for loading in (0.0, 0.01)
    )
    assert slow < quick / 2


def test_large_pictures_are_copied_small_once():
    """That takes a part of the minutes, and makes room for many more steps."""
    slow = Machine(loading=0.1)
    large = pictures(*[32] * 12, side=3000)
    copied = values(large, slow)
    assert copied["data.reduce_to"] == 256 and copied["data.image_size"] > 32
    assert values(pictures(9, 9, side=300))["data.reduce_to"] is None
    assert values(arrays(9, 9))["data.reduce_to"] is None
    instant, rest = (
        samples(values(large, machine, minutes=1)["curriculum.grades"])
        for machine in (Machine(loading=1e-3), slow)
    )
    assert 0 < rest < instant
    hopeless = values(large, Machine(loading=10.0), minutes=1)
    assert 0 < samples(hopeless["curriculum.grades"]) < samples(values()["curriculum.grades"])


def test_arrays_are_not_loaded_and_not_cropped_at_random():
    machine = Machine()
    machine.loading = None  # is not called
    augment = values(arrays(*[32] * 12), machine)["training.augment"]
    assert augment == {"pad": 4, "flip": True}
    assert values()["training.augment"] == {"random_resized_crop": [0.35, 1.0], "flip": True}


@pytest.mark.parametrize(("counts", "balance"), [((30, 30), 0.0), ((40, 30), 0.0), ((90, 30), 0.5)])
def test_rare_classes_are_shown_more_often_where_they_are_much_rarer(counts, balance):
    value, reason = decided(pictures(*counts))["training.balance"]
    assert value == balance and "times the pictures of the smallest" in reason


def test_only_long_runs_are_compiled():
    assert values(minutes=10)["training.compile"] is False
    assert values(minutes=120)["training.compile"] == "auto"


def test_a_set_smaller_than_a_batch_is_a_batch():
    assert values(pictures(3, 4))["training.batch_size"] == 7


GIVEN = {
    "training.batch_size": 16,
    "training.lr": 0.05,
    "training.balance": 0.0,
    "training.compile": True,
    "data.image_size": 24,
    "data.reduce_to": 99,
    "student.model": "resnet14",
    "teachers": [{"model": "resnet20"}],
    "curriculum.grades": [{"epochs": 3}],
}


@pytest.mark.parametrize("key", GIVEN)
def test_what_is_set_stays_and_is_said_to_be_yours(key):
    value, reason = decided(pictures(90, 30), **{key: GIVEN[key]})[key]
    assert value == GIVEN[key] and reason == "set by you"


def test_of_a_section_that_is_set_in_part_the_rest_is_decided():
    value, reason = decided(**{"training.augment": {"flip": False}})["training.augment"]
    assert value == {"random_resized_crop": [0.35, 1.0], "flip": False}
    assert "flip set by you" in reason


def test_decisions_follow_from_what_is_set():
    larger = values(minutes=1, **{"student.model": "resnet20", "data.image_size": 64})
    default = values(minutes=1, **{"student.model": "resnet8"})
    assert samples(larger["curriculum.grades"]) < samples(default["curriculum.grades"]) / 8
    assert [grade["image_size"] for grade in larger["curriculum.grades"]] == [32, 48, None]
    wide = {"student.model": "resnet8x4"}
    sizes = [
        values(pictures(*[32] * 12, side=999), **given)["data.image_size"] for given in ({}, wide)
    ]
    assert sizes[0] > sizes[1], "a larger network leaves time for smaller images"
    small = values(**{"training.batch_size": 16})["curriculum.grades"]
    assert all(grade["samples"] % 16 == 0 for grade in small)


@pytest.mark.parametrize(
    ("classes", "taught_by", "target"),
    [(["all"], [0], "full"), (["1/2", "2/2", "all"], [2], "full"), (["1/2", "2/2"], [0, 1], None)],
)
def test_teachers_that_are_set_teach_in_every_grade_and_take_their_time(classes, taught_by, target):
    alone = values(minutes=1)
    teachers = [{"model": "resnet20", "classes": c} for c in classes]
    taught = values(minutes=1, teachers=teachers)
    for grade in taught["curriculum.grades"]:
        assert (grade["teachers"], grade["target"]) == (taught_by, target)
    assert taught["algorithm"]["name"] == "kd" and "algorithm" not in alone
    fewer, more = (samples(v["curriculum.grades"]) for v in (taught, alone))
    assert taught["student.model"] == alone["student.model"] and fewer < more


@pytest.mark.parametrize("key", ["curriculum.preset", "curriculum.epochs"])
def test_a_preset_takes_the_place_of_grades(key):
    assert "curriculum.grades" not in values(**{key: "default"})


@pytest.mark.parametrize(
    ("side", "learned_at", "flops", "expected"),
    [
        (600, 160, 1e13, 160),  # as the weights know pictures
        (600, 224, 1e13, 224),
        (600, 32, 1e13, 32),
        (100, 160, 1e13, 100),  # the pictures are no larger
        (600, 160, 1e10, 64),  # larger ones take too long
    ],
)
def test_a_student_with_weights_sees_pictures_of_the_size_that_these_know(
    side, learned_at, flops, expected
):
    found = decided(pictures(*[32] * 12, side=side), Machine(flops), 10, learned_at)
    size, reason = found["data.image_size"]
    assert size == expected
    assert f"the weights were trained on images of {learned_at}" in reason
    assert ("fewer than 20 passes" in reason) == (expected == 64)
