"""What algorithms that compare features share: matching maps, adapters, the loss of the logits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from edufast.distill import FitNet, GradeContext, TeacherOutputs, create_algorithm
from edufast.distill.feature_algorithm import as_map, map_shape, matched, same_size
from edufast.utils.errors import UserError
from tests.distill.feature_cases import ALL, BATCH, LABELS, STUDENT, TEACHERS, batch, context


def test_maps_are_matched_by_size():
    tokens = [(17, 12), (12,)]
    assert matched(STUDENT, TEACHERS[0]) == [(0, 0), (1, 1), (2, 2)]
    assert matched(STUDENT, TEACHERS[1]) == [(0, 0), (1, 1), (2, 1)]
    assert matched(STUDENT, tokens) == [(0, 0), (1, 0), (2, 0)]
    assert matched([(4, 8, 8), (6, 8, 8), (6,)], TEACHERS[0]) == [(1, 0)]  # the deeper of a size
    with pytest.raises(ValueError, match="the student has no feature maps"):
        matched([(4,)], TEACHERS[0])


def test_tokens_become_maps():
    square = torch.randn(2, 6, 4, 4)
    tokens = square.flatten(2).mT
    assert torch.equal(as_map(tokens), square)
    assert torch.equal(as_map(torch.cat([torch.zeros(2, 1, 6), tokens], 1)), square)
    assert as_map(torch.zeros(2, 12, 6)).shape == (2, 6, 12, 1)
    assert as_map(torch.zeros(2, 6)).shape == (2, 6, 1, 1)
    assert map_shape((17, 6)) == (6, 4, 4) and map_shape((3, 5, 7)) == (3, 5, 7)
    small, same = same_size(square, torch.randn(2, 3, 2, 8))
    assert small.shape == (2, 6, 2, 4) and same.shape == (2, 3, 2, 4)


@pytest.mark.parametrize("name", ["fitnet", "at", "crd"])
def test_any_shapes_on_either_side(name):
    """Maps, tokens and odd sizes: the student's against the teacher's."""
    sides = [
        [(4, 8, 8), (8, 4, 4), (8,)],
        [(17, 6), (6,)],
        [(3, 5, 7), (12, 3, 4), (7,)],
        [(49, 3), (16, 5), (5,)],
    ]
    for student, teacher in itertools.product(sides, sides):
        algorithm = create_algorithm(name)
        shapes = {"student_shapes": student, "teacher_shapes": [teacher], "teachers": (0,)}
        algorithm.begin_grade(GradeContext(**{**vars(context()), **shapes}))
        features = [torch.randn(2, *s).requires_grad_() for s in student]
        answers = [[torch.randn(2, *s).bfloat16() for s in teacher]]
        outputs = TeacherOutputs([], None, "mean", [slice(0, 2)], answers, torch.tensor([0, 1]))
        algorithm.feature_loss(features, outputs, LABELS[:2]).backward()
        grads = [f.grad for f in features if f.grad is not None]
        assert grads and all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("name", ["fitnet", "crd"])
def test_adapters_survive_growth_where_they_fit(name):
    algorithm = create_algorithm(name)
    algorithm.begin_grade(context(student=[STUDENT[1], (8,)], teachers=(0,)))
    first = {n: p.clone() for n, p in algorithm.state_dict().items()}
    kept = algorithm.adapters["0"]
    algorithm.begin_grade(context(student=[*STUDENT[:2], (8,)]))  # one more teacher
    assert list(algorithm.adapters) == ["0", "1"] and algorithm.adapters["0"] is kept
    for n, before in first.items():  # log_mean is still NaN
        torch.testing.assert_close(
            algorithm.state_dict()[n], before, rtol=0, atol=0, equal_nan=True
        )
    algorithm.begin_grade(context(student=[(5, 4, 4), (11,)], teachers=(1,)))
    assert list(algorithm.adapters) == ["1"]
    features, outputs, labels = batch(ALL)
    with pytest.raises(ValueError, match="features of 2 teachers; expected those of 1"):
        algorithm.feature_loss(features, outputs, labels)


def test_the_logit_part_may_be_any_other_algorithm():
    _, outputs, labels = batch(ALL)
    logits = torch.randn(BATCH, 5, requires_grad=True)
    algorithm = create_algorithm("at", logits={"name": "dkd", "temperature": 3, "warm_up": 2})
    assert algorithm.temperature == 3.0
    algorithm.begin_epoch(0, 4)
    assert algorithm.logits.warm == 0.5
    alone = create_algorithm("dkd", temperature=3, warm_up=2)
    alone.begin_epoch(0, 4)
    expected = alone.logit_loss(logits, outputs, labels)
    assert torch.equal(algorithm.logit_loss(logits, outputs, labels), expected)
    hard = create_algorithm("fitnet", logits={"name": "kd", "alpha": 1})
    torch.testing.assert_close(
        hard.logit_loss(logits, outputs, labels), nn.functional.cross_entropy(logits, labels)
    )
    assert isinstance(create_algorithm("crd", logits="mse").logits, type(create_algorithm("mse")))


@pytest.mark.parametrize("logits", [create_algorithm("crd"), "kd", 3])
def test_the_logits_need_an_algorithm_that_reads_nothing_else(logits):
    with pytest.raises(UserError, match="expected an algorithm that reads logits only"):
        FitNet(logits=logits)
