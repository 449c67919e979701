"""A recipe's budget: what fits is told before anything is trained, and chosen in the end."""

from __future__ import annotations

import pytest

from edufast.edge import fitting
from edufast.experiments.device_budget import fitting_files, fitting_text
from edufast.experiments.method import plan_methods
from edufast.experiments.recipe import load_recipe
from edufast.utils.errors import UserError


@pytest.fixture
def planned():
    """Education by the recipe of digits, with a budget."""

    def planned(**budget):
        recipe = load_recipe("digits").variant({f"budget.{k}": v for k, v in budget.items()})
        return plan_methods(recipe, recipe.data.load(), ["education"])["education"]

    return planned


@pytest.fixture
def milliseconds(monkeypatch):
    """Stands for measuring: as many as millions of FLOPs."""
    monkeypatch.setattr(
        fitting, "_latency", lambda model, size, form: fitting.footprint(model, size).flops / 1e6
    )


def test_without_a_budget_nothing_is_counted() -> None:
    recipe = load_recipe("digits")
    method = plan_methods(recipe, recipe.data.load(), ["education"])["education"]
    assert fitting_files(method) is None


def test_files_fit_by_flash_in_the_format_that_they_have(planned, milliseconds) -> None:
    """The student's exits have 8,000, 25,000 and 79,000 numbers."""
    assert fitting_files(planned(flash="40k")) == [
        ("onnx", 1), ("onnx-int8", 1), ("onnx-int8", 2),
    ]  # fmt: skip
    assert len(fitting_files(planned(flash="1M"))) == 6
    assert ("onnx", None) in fitting_files(planned(flash="1M"))


def test_ram_and_latency_count_too(planned, milliseconds) -> None:
    all_files = set(fitting_files(planned(flash="1M")))
    slow = all_files - set(fitting_files(planned(latency="3ms")))
    assert slow and all(exit != 1 for _, exit in slow)
    assert {form for form, _ in fitting_files(planned(ram="12k"))} == {"onnx-int8"}


def test_where_nothing_fits_the_run_is_refused_with_what_the_smallest_takes(
    planned, milliseconds
) -> None:
    with pytest.raises(UserError, match=r"^budget: no exit of resnet8 fits, the smallest takes "):
        fitting_files(planned(flash="2k"))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("flash", "lots", "budget.flash"),
        ("ram", -1, "budget.ram"),
        ("latency", "5s", "budget.latency"),
        ("memory", "1k", "memory"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_by_its_key(key, value, expected) -> None:
    with pytest.raises(UserError, match=expected):
        load_recipe("digits").variant({f"budget.{key}": value})


def test_what_fits_is_told_by_the_names_of_files() -> None:
    assert fitting_text([("onnx", 1), ("onnx-int8", None)]) == (
        "the budget has room for student-exit1.onnx, student.int8.onnx"
    )
