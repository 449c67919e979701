"""What growth does to an optimizer, and a run that grows."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from tests.student_cases import CLASSES, STAGES, images, student, train

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "sgd foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd plain": lambda p: SGD(p, lr=0.1),
    "adam amsgrad": lambda p: Adam(p, lr=1e-3, amsgrad=True),
    "adamw foreach": lambda p: AdamW(p, lr=1e-3, foreach=True),
    "adamw fused": lambda p: AdamW(p, lr=1e-3, fused=True),
    "adamw tensor lr": lambda p: AdamW(p, lr=torch.tensor(1e-3), fused=True),
}


@pytest.mark.parametrize("keep_rows", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizer_follows_the_growth(kind: str, keep_rows: bool) -> None:
    model = student()
    model.grow(fragments=1, classes=4)
    optimizer = OPTIMIZERS[kind](model.active_parameters())
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    for fragments, classes in STAGES[1:]:
        train(model, optimizer)
        old = {p: copy.deepcopy(s) for p, s in optimizer.state.items()}
        linear, rows = model.head.linear if model.head else model.classifier, model.classes
        deeper = fragments > model.grown
        model.grow(fragments=fragments, classes=classes, optimizer=optimizer, keep_rows=keep_rows)
        active = list(model.active_parameters())
        # The order of a fresh optimizer, so that a resumed one loads its state.
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in active]
        now = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        assert now == settings
        assert set(optimizer.state) <= set(active)
        for parameter in set(old) & set(active):
            torch.testing.assert_close(optimizer.state[parameter], old[parameter], rtol=0, atol=0)
        new = model.head.linear if model.head else model.classifier
        if new is not linear and (keep_rows or not deeper):
            for key, value in old.get(linear.weight, {}).items():
                grown = optimizer.state[new.weight][key]
                if isinstance(value, Tensor) and value.dim():
                    assert grown.shape == new.weight.shape
                    assert torch.equal(grown[:rows], value[:rows])
                    assert not grown[rows:].any()
                else:
                    assert grown == value
        elif deeper:
            assert new.weight not in optimizer.state
    train(model, optimizer)


def test_state_can_be_forgotten() -> None:
    model = student()
    model.grow(fragments=1, classes=4)
    optimizer = OPTIMIZERS["sgd"](model.active_parameters())
    train(model, optimizer)
    model.grow(fragments=2, classes=6, optimizer=optimizer, keep_rows=True, keep_state=False)
    assert not any(optimizer.state.values())
    train(model, optimizer)


def test_groups_names_and_foreign_parameters_survive() -> None:
    model = student()
    model.grow(fragments=1, classes=4)
    adapter = nn.Parameter(torch.zeros(3))
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(("head", "model.layer1"))]
    optimizer = SGD(
        [
            {"params": [("adapter", adapter)], "lr": 0.5},
            {"params": [(n, p) for n, p in named if p.dim() == 1], "weight_decay": 0.0},
            {"params": [(n, p) for n, p in named if p.dim() > 1], "weight_decay": 0.1},
        ],
        lr=0.1,
    )
    model.grow(fragments=1, classes=6, optimizer=optimizer)
    foreign, vectors, matrices = optimizer.param_groups
    assert foreign["params"] == [adapter]
    assert any(p is model.head.linear.bias for p in vectors["params"])  # in the old one's place
    model.grow(fragments=2, classes=6, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1, 0.1]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(adapter), *map(id, model.active_parameters())}
    known = {**dict(model.named_parameters()), "adapter": adapter}
    for group in optimizer.param_groups:
        assert [id(known[n]) for n in group["param_names"]] == [id(p) for p in group["params"]]
    assert any(p is model.head.linear.bias for p in matrices["params"])  # new: the last group


@pytest.mark.parametrize("keep_rows", [False, True])
def test_what_was_trained_before_grows_into_a_group_of_its_own(keep_rows: bool) -> None:
    names = [name for name, _ in student().model.named_parameters() if not name.startswith("fc")]
    model = student(learned=names)
    assert len(model.learned) == len(names)
    model.grow(fragments=1, classes=4)
    optimizer = SGD(
        [
            {"params": [p for p in model.active_parameters() if p in model.learned], "lr": 0.01},
            {"params": [p for p in model.active_parameters() if p not in model.learned]},
        ],
        lr=0.1,
        momentum=0.9,
    )
    optimizer.param_groups[0]["learned"] = True
    for fragments, classes in STAGES[1:]:
        train(model, optimizer)
        model.grow(fragments=fragments, classes=classes, optimizer=optimizer, keep_rows=keep_rows)
        active = list(model.active_parameters())
        for group, learned in zip(optimizer.param_groups, (True, False), strict=True):
            expected = [id(p) for p in active if (p in model.learned) == learned]
            assert [id(p) for p in group["params"]] == expected
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == {
        id(p) for p in model.classifier.parameters()
    }


def test_an_optimizer_over_everything_holds_each_parameter_once() -> None:
    model = student()
    model.grow(fragments=2, classes=4)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    model.grow(fragments=3, classes=CLASSES, optimizer=optimizer, keep_rows=True)
    params = optimizer.param_groups[0]["params"]
    assert [id(p) for p in params] == [id(p) for p in model.model.parameters()]


def test_a_parameter_is_never_in_two_groups() -> None:
    model = student()
    model.grow(fragments=2, classes=4)
    # The classifier that takes the place of the head's linear is in another group already.
    groups = [{"params": list(model.head.parameters())}, {"params": list(model.model.parameters())}]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    train(model, optimizer)
    model.grow(fragments=3, classes=CLASSES, optimizer=optimizer, keep_rows=True)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.model.parameters()))


@pytest.mark.parametrize("keep_exits", [False, True])
@pytest.mark.parametrize("keep_rows", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adamw foreach"])
def test_three_grades_retain_weights_state_and_outputs(
    kind: str, keep_rows: bool, keep_exits: bool
) -> None:
    """Bit for bit, at each growth: weights, buffers, moments, step counters and eval outputs."""
    model = student()
    model.grow(fragments=1, classes=4)
    optimizer = OPTIMIZERS[kind](model.active_parameters())
    for fragments, classes in [(2, 7), (3, CLASSES)]:
        train(model, optimizer)
        model.eval()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        moments = {p: copy.deepcopy(s) for p, s in optimizer.state.items()}
        taught, depth = [id(p) for p in model.active_parameters()], model.grown
        outputs = [images()]
        for fragment in model.fragments[:depth]:
            outputs.append(fragment(model.model, outputs[-1]))
        model.grow(
            fragments=fragments,
            classes=classes,
            optimizer=optimizer,
            keep_rows=keep_rows,
            keep_exits=keep_exits,
        )

        now = model.state_dict()
        rows = {"model.fc.weight", "model.fc.bias"}  # of classes that came from the last head
        kept = [n for n in state if n.startswith("model.") and not (keep_rows and n in rows)]
        assert all(torch.equal(now[name], state[name]) for name in kept)
        for before, after, fragment in zip(outputs, outputs[1:], model.fragments, strict=False):
            assert torch.equal(fragment(model.model, before), after)
        body = [
            p for n, p in model.named_parameters() if n.startswith("model.") and id(p) in taught
        ]
        assert len(body) > 6 * depth
        for parameter in body:
            assert optimizer.state[parameter].keys() == moments[parameter].keys() != set()
            for key, value in moments[parameter].items():
                assert torch.equal(optimizer.state[parameter][key], value)
        assert keep_exits == (depth in model.depths)


def test_resuming_equals_going_on() -> None:
    model = student()
    model.grow(fragments=1, classes=4)
    optimizer = OPTIMIZERS["adamw foreach"](model.active_parameters())
    train(model, optimizer)
    model.grow(fragments=2, classes=6, optimizer=optimizer, keep_rows=True)
    train(model, optimizer, 1)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = student()
    resumed.grow(fragments=2, classes=6)
    resumed.load_state_dict(saved["model"], strict=True)
    other = OPTIMIZERS["adamw foreach"](resumed.active_parameters())
    other.load_state_dict(saved["optimizer"])
    train(model, optimizer)
    train(resumed, other)
    for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
