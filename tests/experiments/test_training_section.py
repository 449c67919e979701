"""The section ``training`` of a recipe: every key arrives in what a School takes."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from edufast.data import Augment
from edufast.experiments.recipe import parse_recipe
from edufast.experiments.training_section import TrainingSection
from edufast.training.settings import Training
from edufast.utils.errors import UserError
from tests.experiments.recipes import content


def test_its_keys_and_their_defaults_are_those_of_a_training():
    assert TrainingSection().create() == Training()
    assert TrainingSection.model_fields.keys() == asdict(Training()).keys()


def test_what_it_says_arrives():
    said = {
        "batch_size": 7,
        "lr": 0.2,
        "pretrained_lr": 0.5,
        "optimizer": "adamw",
        "momentum": 0.1,
        "weight_decay": 0.0,
        "clip": 2.0,
        "ema": 0.99,
        "augment": {"pad": 1, "flip": False},
        "policy": "randaugment",
        "erase": 0.25,
        "mix": "cutmix",
        "label_smoothing": 0.1,
        "balance": 0.5,
        "patience": 3,
        "precision": "bf16",
        "compile": False,
    }
    assert said.keys() == TrainingSection.model_fields.keys()
    augment = Augment(pad=1, flip=False)
    assert TrainingSection(**said).create() == Training(**said | {"augment": augment})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mix": "cutmixup"}, r"training.mix: found 'cutmixup'; did you mean 'cutmix'"),
        ({"clip": -1}, r"training.clip: found -1; input should be greater than or equal to 0"),
        ({"label_smoothing": 1}, r"training.label_smoothing: found 1; input should be less than 1"),
        ({"ema": 1}, r"training.ema: found 1; input should be less than 1"),
        ({"ema": -0.1}, r"training.ema: found -0.1; input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_train_is_refused_by_its_key(said, message):
    with pytest.raises(UserError, match=message):
        parse_recipe(content(training=said))
