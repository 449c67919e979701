import os
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edufast.experiments.recipe import load_recipe, parse_recipe, read_recipe, shipped_recipes
from edufast.experiments.schema import read_yaml
from edufast.experiments.written import as_written
from edufast.utils.errors import UserError
from tests.experiments.recipes import content
from tests.tiny import tiny_data

DATA = tiny_data()


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(name):
    """That for folders leaves things open."""
    assert as_written(read_recipe(name), name).name == name
    if name == "folder":
        with pytest.raises(UserError, match="folder leaves values open that are decided when a"):
            load_recipe(name)
    else:
        assert load_recipe(name).name == name


def test_class_ranges_and_defaults():
    recipe = parse_recipe(content())
    assert recipe.teacher_classes(DATA) == [(0, 1), (2, 3), (4, 5)]
    curriculum = recipe.create_curriculum(DATA)
    assert [g.epochs for g in curriculum.grades] == [1, 1, 6]
    assert recipe.create_training().batch_size == 128
    assert recipe.create_algorithm().temperature == 4.0


def test_overrides_change_nested_keys_and_list_items(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(content()))
    recipe = load_recipe(
        str(path), ["training.lr=0.5", "teachers.1.model=resnet20", "algorithm.alpha=0.7"]
    )
    assert recipe.training.lr == 0.5
    assert recipe.teachers[1].model == "resnet20"
    assert recipe.create_algorithm().alpha == 0.7
    with pytest.raises(UserError, match=r"expected key.subkey=value"):
        load_recipe(str(path), ["training.lr"])
    with pytest.raises(UserError, match=r"teachers.9.model.*3 entries"):
        load_recipe(str(path), ["teachers.9.model=x"])
    with pytest.raises(UserError, match=r"name.x=1.*name is not a section"):
        load_recipe(str(path), ["name.x=1"])


# Each wrong value comes with what the one line has to say: key, value found, value expected.
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainning": {}}, r"trainning: unknown key; did you mean 'training'\?"),
        ({"training": {"batchsize": 1}}, r"training.batchsize: unknown key; did you mean 'batch_s"),
        ({"student": {"model": "resnet8", "zzz": 1}}, r"student.zzz: unknown key; expected one of"),
        (
            {"training": {"precision": "fp8"}},
            r"training.precision: found 'fp8'; .*'fp32' or 'bf16'",
        ),
        (
            {"training": {"compile": "no way"}},
            r"training.compile: found 'no way'; .*'auto', True or",
        ),
        ({"training": {"lr": -1}}, r"training.lr: found -1; input should be greater than 0"),
        (
            {"training": {"batch_size": 2**62}},
            r"training.batch_size: found 4611.* than or equal to",
        ),
        ({"curriculum": {"epochs": 10**9}}, r"curriculum.epochs: found 1000000000; .* or equal to"),
        ({"teacher_epochs": 10**9}, r"teacher_epochs: found 1000000000; .* or equal to 100000"),
        ({"teacher_samples": 10**12}, r"teacher_samples: found 1000000000000; .* or equal to 1"),
        ({"curriculum": {"epochs": 1, "samples": 10**12}}, r"curriculum.samples: found 1000000000"),
        ({"training": {"optimizer": "lion"}}, r"training.optimizer: found 'lion'; .*'sgd' or 'ad"),
        ({"teachers": [{"classes": "0-1"}]}, r"teachers.0.model: missing"),
        (
            {"teachers": [{"model": "m", "classes": "0-"}]},
            r"teachers.0.classes: .*'0-' is not a cla",
        ),
        (
            {"teachers": [{"model": "m", "mean": [0.5, 0.5, 0.5]}]},
            r"teachers.0.mean: \(0.5, 0.5, 0.5\) without weights; a teacher that is trained here",
        ),
        (
            {"teachers": [{"model": "m", "image_size": 24}]},
            r"teachers.0.image_size: 24 without weights",
        ),
        (
            {"teachers": [{"model": "m", "weights": "pretrained", "image_size": 24}]},
            r"teachers.0.image_size: 24 with epochs; a teacher that is trained here",
        ),
        (
            {"teachers": [{"model": "m", "weights": __file__}]},
            r"teachers.0.weights: '.*test_recipe.py'; expected a .safetensors file written by .* "
            r"or epochs as well",
        ),
        ({"training": {"pretrained_lr": 0}}, r"training.pretrained_lr: found 0; .*greater than 0"),
        ({"training": {"pretrained_lr": 2}}, r"training.pretrained_lr: found 2; .*or equal to 1"),
        ({"teachers": [{"model": "m", "std": [0.5, 0, 0.5]}]}, r"teachers.0.std.1: found 0"),
        (
            {"curriculum": {"grades": [{"epoch": 1}]}},
            r"grades.0.epoch: unknown key; did you mean '",
        ),
        (
            {"curriculum": {"epochs": 8, "target": "joined"}},
            r"curriculum: target is 'joined'; did you mean 'joint' or",
        ),
        (
            {"curriculum": {"grades": [{"epochs": 1, "target": "half"}]}},
            r"curriculum.grades.0: target is 'half'; expected one of routed, full, none, gated, jo",
        ),
        ({"algorithm": {"name": "magic"}}, r"algorithm is 'magic'; expected one of kd"),
        ({"algorithm": {"name": "kd", "beta": 1}}, r"algorithm 'kd': .*'beta'"),
        ({"baselines": ["magic"]}, r"baselines.0: found 'magic'; .*'scratch'"),
        ({"name": "a/b"}, r"name: found 'a/b'"),
        ({"name": ".."}, r"name: found '..'"),
        ({"name": ""}, r"name: found ''"),
        ({"name": "n" * 300}, r"name: found 'nnn.*at most 60 characters"),
        (
            {"teachers": [{"model": "m", "classes": "0-10000000000"}]},
            r"ascending ids below 1,000,0",
        ),
        ({"teachers": [{"model": "m", "classes": "0-" + "9" * 5000}]}, r"is not a class range"),
        ({"teachers": [{"model": "m", "classes": ",".join(["0-999999"] * 2)}]}, r"ids below 1,0"),
        ({"teachers": [{"model": "m", "classes": "0-4,4-9"}]}, r"'0-4,4-9'; .* class 4 is named"),
        ({"teachers": [{"model": "m", "classes": "9-0"}]}, r"'9-0': expected ascending ids"),
        ({"teachers": [{"model": "m", "classes": [1_000_000]}]}, r"classes.0: found 1000000"),
        ({"teachers": [{"model": "m", "classes": "1/" + "9" * 5000}]}, r"is not a class range"),
        ({"teachers": [{"model": "m"}] * 1025}, r"teachers: .*at most 1024 items"),
        ({"data": {"source": "digits", "image_size": 10**9}}, r"data.image_size: .*to 4096"),
        ({"data": {"source": "digits", "seed": 2**63}}, r"data.seed: found 9223372036854775808"),
        ({"seed": 2**53 + 1}, r"seed: found 9007199254740993; .*less than"),
        ({"training": {"augment": {"pad": 10**30}}}, r"training.augment.pad: found 10+;"),
        (
            {
                "data": {"source": "digits", "image_size": 32},
                "teaching": {"augment": {"pad": 33}},
            },
            r"teaching.augment.pad: found 33; expected at most data.image_size, 32",
        ),
        ({"variants": {"a\nb": {}}}, r"variants.a b.*: found 'a\\nb'"),
        ({"training": {"lr": float("inf")}}, r"training.lr: found inf; .*finite"),
        (
            {"curriculum": {"epochs": 8, "exit_weight": float("nan")}},
            r"curriculum.exit_weight: found nan; .*finite",
        ),
    ],
)
def test_wrong_recipes_are_told_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_recipe(content(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"model": "m", "weights": "no.pth"}}, r"r: student.weights: 'no.pth' does"),
        ({"teachers": [{"model": "m", "weights": "w.safetensors"}]}, r"r: teachers.0.weights: 'w"),
        (
            {"teachers": [{"model": "m", "weights": "w" * 5000, "epochs": 1}]},
            r"teachers.0.weights: 'www",
        ),
    ],
)
def test_weights_have_to_be_there_before_a_training(changes, message):
    recipe = parse_recipe(content(**changes))
    with pytest.raises(UserError, match=message + ".* not exist; expected a file of weights, such"):
        recipe.check_files("r")


def test_paths_of_weights_are_found_from_anywhere_and_published_ones_stay_a_word():
    teachers = [{"model": "m", "weights": "pretrained"}, {"model": "m", "weights": __file__}]
    teachers[1]["epochs"] = 3
    relative = os.path.relpath(__file__)
    changes = {"teachers": teachers, "student": {"model": "resnet8", "weights": relative}}
    recipe = parse_recipe(content(**changes)).with_absolute_paths()
    assert recipe.student.weights == Path(__file__)
    assert [t.weights for t in recipe.teachers] == ["pretrained", Path(__file__)]
    assert [t.finished for t in recipe.teachers] == [None, None]


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(UserError, match=r"recipe is 'nowhere.yaml'; expected one of .*quickstart"):
        load_recipe("nowhere.yaml")
    path = tmp_path / "r.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match=r"not valid YAML"):
        load_recipe(str(path))
    path.write_text("- 1")
    with pytest.raises(UserError, match=r"found list; expected keys and values"):
        load_recipe(str(path))
    path.write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match=r"r.yaml: not valid YAML: .*expected UTF-8"):
        load_recipe(str(path))
    with pytest.raises(UserError, match=r"expected one of .*an existing YAML file"):
        load_recipe("x" * 5000)


def test_a_data_source_that_is_too_long_for_a_path_is_told():
    recipe = parse_recipe(content(data={"source": "x" * 5000})).with_absolute_paths()
    with pytest.raises(UserError, match=r"data source is 'xxx"):
        recipe.data.load()


_KEYS = ["name", "model", "classes", "weights", "cuts", "epochs", "grades", "teachers", "pad"]
_KEYS += ["augment", "source", "alpha", "logits", "lr", "x"]

# What sections may hold, right and wrong. No text with a colon, since algorithms and sources may be
# import paths.
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(string.ascii_letters + string.digits + "-/,. \n²é", max_size=8)
    | st.sampled_from(
        ["0-1", "1/2", "all", "kd", "resnet8", "default", "0-99999999", "2024-01-01"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_KEYS) | st.text("a1.\n²", max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def _is_told(make):
    """A recipe, or one line of what is wrong."""
    try:
        make()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


@given(st.sampled_from([*content(), "algorithm", "training", "variants", "seed", "x"]), _VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_of_a_section_is_taken_or_told_in_one_line(key, value):
    _is_told(lambda: parse_recipe(content(**{key: value})))


@given(
    st.sampled_from(["teachers.0", "data", "curriculum", "algorithm", "training", "student"]),
    st.sampled_from(_KEYS),
    _VALUES,
)
@settings(max_examples=300, deadline=None)
def test_any_value_of_a_key_is_taken_or_told_in_one_line(tmp_path_factory, section, key, value):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(yaml.safe_dump(content()), encoding="utf-8")
    written = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    _is_told(lambda: load_recipe(str(path), [f"{section}.{key}={written}"]))


@given(st.text("ab:-&*!<>{}[]?|,'\"# \n\t0.²\x00\ufeff", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_recipe_or_told_in_one_line(text):
    _is_told(lambda: parse_recipe(read_yaml(text, "r.yaml")))
