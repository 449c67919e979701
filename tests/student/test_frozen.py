"""Frozen fragments stop learning: weights and running statistics alike."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from edufast.student.student import Student
from edufast.utils.modes import eval_mode
from tests.student_cases import CLASSES, images, student, train


def learned(model: Student, names: set[str]) -> dict[str, Tensor]:
    """Weights and running statistics of the modules ``names``."""
    state = model.model.state_dict()
    return {key: state[key].clone() for key in state if key.rpartition(".")[0] in names}


def complete(frozen: int) -> Student:
    model = student()
    model.grow(fragments=1, classes=4)
    model.grow(fragments=3, classes=CLASSES, keep_exits=True)
    model.frozen = frozen
    return model


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_fragments_keep_every_bit_and_the_rest_learns(frozen: int) -> None:
    model = complete(frozen)
    before = [learned(model, set(piece.modules)) for piece in model.fragments]
    train(model, SGD(model.active_parameters(), lr=0.1))
    for depth, (piece, old) in enumerate(zip(model.fragments, before, strict=True), 1):
        new = learned(model, set(piece.modules))
        assert any("running_mean" in key for key in new)
        for key, value in new.items():
            assert torch.equal(value, old[key]) == (depth <= frozen), key


def test_what_learns_on_sees_the_features_of_the_graduate() -> None:
    model = complete(frozen=2)
    train(model, SGD(model.active_parameters(), lr=0.1))
    _, training = model.train().forward_answers(images())
    _, finished = model.eval().forward_answers(images())
    assert torch.equal(training[0], finished[0]) and torch.equal(training[1], finished[1])


def test_heads_of_frozen_fragments_stay_in_train_mode() -> None:
    model = complete(frozen=1).train()
    assert all(module.training for module in model.exits.modules())
    assert not any(model.model.get_submodule(n).training for n in model.fragments[0].modules)


def test_a_fragment_that_learns_again_is_in_train_mode_again() -> None:
    model = complete(frozen=2).train()
    model.frozen = 1
    for depth, piece in enumerate(model.fragments, 1):
        for name in piece.modules:
            assert model.model.get_submodule(name).training == (depth > 1)


def test_modes_survive_evaluation_and_copies() -> None:
    model = complete(frozen=1).train()
    modes = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in copy.deepcopy(model).modules()] == modes


class Functional(nn.Module):
    """Normalises and drops out by functions, whose modes a trace treats as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = F.batch_norm(x, self.mean, self.var, training=self.training)
        x = F.dropout(x, 0.5, self.training)
        return self.fc(self.b(x.relu()).mean((2, 3)))


def test_functions_of_frozen_fragments_are_in_eval_mode_too() -> None:
    model = Student(Functional(), 2, input_size=(3, 16, 16), cuts=["b"])
    model.grow(fragments=2, classes=3)
    model.train()
    assert not torch.equal(model(images()), model(images()))
    model.frozen = 1
    mean = model.model.mean.clone()
    assert torch.equal(model(images()), model(images()))
    assert torch.equal(model.model.mean, mean)


@pytest.mark.parametrize("fragments", [-1, 4, 0.5, None])
def test_no_other_number_of_fragments_is_frozen(fragments: Any) -> None:
    model = Student(Functional(), 2, input_size=(3, 16, 16), cuts=["b"])
    with pytest.raises(ValueError, match=f"frozen is {fragments}; expected"):
        model.frozen = fragments
    assert model.frozen == 0


class Shared(nn.Module):
    """One norm in two fragments."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x)).relu()
        return self.fc(self.norm(self.b(x)).mean((2, 3)))


def test_what_a_later_fragment_runs_as_well_learns_on() -> None:
    model = Student(Shared(), 2, input_size=(3, 16, 16), cuts=["a"])
    model.grow(fragments=2, classes=3)
    model.frozen = 1
    model.train()
    assert model.model.norm.training and not model.model.a.training
