"""The project's loops: what each optimisation adds, and that nothing else changes."""

from __future__ import annotations

import itertools

import pytest
import torch

from edufast.bench.train.ladder import (
    LoopOptions,
    SchoolLoop,
    WithFaculty,
    endless,
    faculty,
    school,
)
from edufast.bench.train.peers import PlainLoop


def test_batches_go_on_with_the_next_epoch():
    class Pages:
        def epoch(self, number: int):
            return iter([(number, 0), (number, 1)])

    found = list(itertools.islice(endless(Pages()), 5))
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (LoopOptions(), [4, 4, 4]),
        (LoopOptions(cache="first"), [4, 4, 4]),
        (LoopOptions(cache="warm"), [0, 0, 0]),
    ],
    ids=["live", "filling", "filled"],
)
def test_teachers_compute_what_the_cache_does_not_hold(setting, options, images):
    loop = SchoolLoop(setting, options)
    loop.step(next(loop.batches()))
    assert loop.school.plan.supervision.visits == images


def test_the_learning_rate_of_the_loop_is_constant_as_in_those_beside_it(setting):
    loop = SchoolLoop(setting, LoopOptions())
    for batch in itertools.islice(loop.batches(), 3):
        loop.step(batch)
        assert loop.school.step.optimizer.param_groups[0]["lr"] == setting.lr


def test_a_school_trains_on_as_many_samples_as_asked(setting):
    assert school(setting, LoopOptions(), samples=60).plan.steps == 5
    assert school(setting, LoopOptions()).plan.steps == 4  # of 12 samples, an epoch of 48


@pytest.mark.parametrize("cache", [None, "warm"])
def test_that_random_teachers_know_nothing_is_no_news(setting, cache, recwarn, monkeypatch):
    monkeypatch.setattr("edufast.teachers.faculty._near_chance", lambda *_: True)
    SchoolLoop(setting, LoopOptions(cache=cache))
    assert not [w for w in recwarn if "chance" in str(w.message)]


def test_folded_teachers_give_the_logits_of_the_plain_ones(setting):
    images = torch.randn(3, *setting.input_size)
    with torch.no_grad():
        plain = PlainLoop(setting).teacher_logits(images)
    folded = WithFaculty(setting).teacher_logits(images)
    for expected, found in zip(plain, folded, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_faculty_knows_the_slices_and_computes_in_the_precision_asked_for(setting, tmp_path):
    live, cached = faculty(setting), faculty(setting, LoopOptions("bf16"), tmp_path)
    for teachers in (live, cached):
        assert [teacher.classes for teacher in teachers] == [(0, 1), (2, 3), (4, 5)]
    assert {p.dtype for p in live.model(0).parameters()} == {torch.float32}
    assert {p.dtype for p in cached.model(0).parameters()} == {torch.bfloat16}
