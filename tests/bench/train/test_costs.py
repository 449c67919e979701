"""The cost of a whole training follows from its grades."""

from __future__ import annotations

import torch

from edufast.bench.train import show
from edufast.bench.train.costs import ALL, DEFAULT, ONE, training_costs


def test_costs_of_a_whole_training(pair):
    costs = training_costs(pair)
    (one,) = [cost for cost in costs if cost.method == ONE]
    (every,) = [cost for cost in costs if cost.method == ALL]
    grades = [cost for cost in costs if cost.method == DEFAULT]
    assert every.student == one.student and every.teachers == 3 * one.teachers
    assert [cost.grade for cost in grades] == [1, 2, 3]
    # Shallow students of few classes cost little; the whole one stops learning in part.
    per_epoch = [cost.student / cost.epochs for cost in grades]
    assert per_epoch[0] < per_epoch[1] < per_epoch[2] < one.student / one.epochs
    assert sum(cost.epochs for cost in grades) == one.epochs
    *_, last = show.cost_rows(costs)
    spent = sum(cost.student + cost.teachers for cost in grades) / (one.student + one.teachers)
    assert last[:3] == (DEFAULT, "all", "240") and last[-1] == f"{spent:.2f}"


def test_costs_do_not_touch_the_random_state(pair):
    before = torch.get_rng_state()
    training_costs(pair)
    assert torch.equal(torch.get_rng_state(), before)
