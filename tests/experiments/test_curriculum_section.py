"""Curricula of recipes: presets, and grades one by one."""

from dataclasses import replace

import pytest

from edufast.experiments.recipe import parse_recipe
from edufast.utils.errors import UserError
from tests.experiments.recipes import content
from tests.tiny import tiny_data

DATA = tiny_data()


def test_explicit_grades_take_the_classes_of_their_new_teachers():
    grades = [
        {"epochs": 1, "teachers": [0], "target": "routed", "image_size": 8},
        {"epochs": 2, "teachers": [0, 1], "samples": 100},
        {"epochs": 1, "classes": [5, 4], "fragments": 2},
    ]
    curriculum = parse_recipe(
        content(curriculum={"grades": grades, "order": "slices", "keep_rows": True})
    ).create_curriculum(DATA)
    assert [tuple(g.classes) for g in curriculum.grades] == [(0, 1), (2, 3), (5, 4)]
    assert [g.target for g in curriculum.grades] == ["routed", "gated", "none"]
    assert curriculum.fragments == (1, 2, 2)
    assert [g.image_size for g in curriculum.grades] == [8, None, None]
    assert curriculum.order == "slices" and curriculum.keep_rows


def test_a_target_holds_for_all_grades_of_slice_teachers_that_name_none():
    def targets(**section):
        teachers = [*content()["teachers"], {"model": "resnet14"}]
        recipe = parse_recipe(content(teachers=teachers, curriculum=section))
        return [grade.target for grade in recipe.create_curriculum(DATA).grades]

    assert targets(epochs=8, target="joint") == ["joint", "joint", "full"]
    grades = [
        {"epochs": 1, "teachers": [0], "target": "routed"},
        {"epochs": 1, "teachers": [0, 1]},
        {"epochs": 1, "classes": "4-5"},
        {"epochs": 1, "teachers": [3], "target": "full"},
    ]
    assert targets(grades=grades, target="centred") == ["routed", "centred", "none", "full"]
    assert targets(grades=grades) == ["routed", "gated", "none", "full"]


def test_options_of_a_preset_hold_unless_the_recipe_has_its_own():
    section = {"preset": "paper", "epochs": 8}
    paper = parse_recipe(content(curriculum=section)).create_curriculum(DATA)
    assert (paper.order, paper.schedule, paper.keep_state) == ("slices", "paper", False)
    assert paper.exit_weight == 0
    section |= {"order": "mixed", "exit_weight": 0.1}
    own = parse_recipe(content(curriculum=section)).create_curriculum(DATA)
    assert (own.order, own.schedule, own.exit_weight) == ("mixed", "paper", 0.1)
    section = {"epochs": 8, "freeze": [0.25, 0.5], "image_sizes": [8, 12]}
    default = parse_recipe(content(curriculum=section)).create_curriculum(DATA)
    assert default.grades[-1].freeze == (0.25, 0.5)
    assert [grade.image_size for grade in default.grades] == [8, 12, None]


def test_the_preset_for_photographs_is_what_won_on_them():
    """That is, the variants of benchmarks/evidence in which images grow, and classes with them."""
    data = replace(DATA, image_size=32)
    parts = [(2, 12), (2, 16), (3, 24), (4, None)]

    def create(**changes):
        return parse_recipe(content(**changes)).create_curriculum(data)

    def written(*teachers):
        return {
            "grades": [
                {"epochs": epochs, "image_size": size, "fragments": 1, "teachers": known}
                for (epochs, size), known in zip(parts, teachers, strict=True)
            ]
        }

    preset = {"preset": "photographs", "epochs": 11}
    one = {"teachers": [{"model": "resnet14"}]}
    full = create(**one, curriculum={**written(*[[0]] * 4), "target": "full"})
    assert create(**one, curriculum=preset) == full
    slices = create(curriculum={**written([0], [0, 1], [0, 1, 2], [0, 1, 2]), "target": "gated"})
    assert create(curriculum=preset) == slices
    joint = create(curriculum={**preset, "target": "joint", "exit_weight": 0.1})
    assert joint.exit_weight == 0.1 and {grade.target for grade in joint.grades} == {"joint"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": content()["teachers"][:2]}, r"class 4 \(c4\) is in no grade"),
        (
            {
                "curriculum": {
                    "grades": [{"epochs": 1, "classes": "0-3"}, {"epochs": 1, "classes": "3-5"}]
                }
            },
            r"class 3 is added by grade 1 and by grade 2",
        ),
        (
            {"teachers": [{"model": "m", "classes": "0-9"}]},
            r"teachers.0.classes: class 6; expected 0",
        ),
        ({"curriculum": {"preset": "default"}}, r"curriculum.epochs: missing"),
        ({"curriculum": {"epochs": 2}}, r"epochs is 2; expected at least 3"),
        (
            {"curriculum": {"grades": [{"epochs": 1, "teachers": [7]}]}},
            r"grades.0.teachers: 7; expec",
        ),
        ({"teachers": [{"model": "m"}]}, r"curriculum.preset: needs slice teachers"),
        (
            {"curriculum": {"epochs": 8, "grades": [{"epochs": 1, "classes": "0-5"}]}},
            r"^curriculum: found grades and epochs; expected either",
        ),
        (
            {"curriculum": {"grades": [{"epochs": 1, "classes": "0-5"}], "image_sizes": [8]}},
            r"curriculum.image_sizes: found \[8\]; expected none, because grades have their own",
        ),
        (
            {"curriculum": {"preset": "paper", "epochs": 8, "freeze": [0.5]}},
            r"curriculum.freeze: found \[0.5\]; expected none, because the preset paper has",
        ),
        (
            {"curriculum": {"preset": "photographs", "epochs": 8, "image_sizes": [8]}},
            r"image_sizes: found \[8\]; expected none, because the preset photographs has",
        ),
        (
            {"curriculum": {"preset": "photographs", "epochs": 8}, "teachers": []},
            r"curriculum.preset: needs slice teachers first, if any, and at most one",
        ),
    ],
)
def test_recipes_that_do_not_fit_their_data_say_why(changes, message):
    with pytest.raises(UserError, match=message):
        parse_recipe(content(**changes)).create_curriculum(DATA)
