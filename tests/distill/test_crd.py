"""CRD against its formula in float64, and its memories and draws."""

from __future__ import annotations

import math

import pytest
import torch

from edufast.distill import CRD
from edufast.distill.crd import Contrast, recall
from edufast.utils.errors import UserError
from tests.distill.feature_cases import (
    ALL,
    LABELS,
    NONE,
    OWN,
    SAMPLES,
    batch,
    check,
    context,
    over_teachers,
    prepared,
)


@pytest.mark.parametrize("rows", [ALL, OWN, NONE])
def test_crd_is_noise_contrastive_estimation_against_the_memories(rows):
    """All samples are negatives here, so that nothing is drawn."""
    features, outputs, labels = batch(rows)
    algorithm = prepared(CRD(weight=2.0, width=5, tau=0.5), routed=rows is OWN)
    before = {name: value.double() for name, value in algorithm.state_dict().items()}

    def normal(x):
        return x / x.norm(dim=1, keepdim=True)

    def of_teacher(position, part):
        def of(name):
            return before[f"adapters.{position}.{name}"]

        def project(who, x):
            weight, bias = of(f"project_{who}.weight"), of(f"project_{who}.bias")
            return normal(x.double() @ weight.T + bias)

        s = project("student", features[-1][part])
        t = project("teacher", outputs.features[position][-1])
        index = outputs.index[part].tolist()
        seen = [n for n in range(SAMPLES) if rows is not OWN or (LABELS[n] < 3) == (position == 0)]
        loss = 0
        for anchors, memory in ((s, of("teacher_memory")), (t, of("student_memory"))):
            e = torch.exp(anchors @ memory.T / 0.5)
            others = [[n for n in seen if LABELS[n] != LABELS[i]] for i in index]
            mean = torch.cat([e[r][negatives] for r, negatives in enumerate(others)]).mean()
            z = SAMPLES * mean.detach()
            for row, (i, negatives) in enumerate(zip(index, others, strict=True)):
                noise = len(negatives) / SAMPLES
                p = e[row] / z
                loss = loss - torch.log(p[i] / (p[i] + noise))
                loss = loss - torch.log(noise / (p[negatives] + noise)).sum()
        return 2.0 * loss / len(index)

    exact = over_teachers(outputs, of_teacher)
    check(algorithm, features, outputs, labels, exact)
    for position, part in enumerate(outputs.rows):
        memory = algorithm.state_dict()[f"adapters.{position}.student_memory"]
        moved = (memory.double() != before[f"adapters.{position}.student_memory"]).any(1)
        assert moved.nonzero()[:, 0].tolist() == sorted(outputs.index[part].tolist())
        torch.testing.assert_close(memory.norm(dim=1), torch.ones(SAMPLES))


def test_crd_draws_as_many_as_asked_from_classes_taught():
    algorithm = CRD(width=5, negatives=7)
    taught = context()
    taught.labels[LABELS == 4] = -1
    try:
        algorithm.begin_grade(taught)
        contrast = algorithm.adapters["0"]
        assert (LABELS[contrast.candidates] < 4).all() and len(contrast.candidates) == 32
        drawn = contrast.draw(7)
        assert drawn.shape == (7,) and contrast.draw(50).tolist() == list(range(32))
    finally:
        LABELS[:] = torch.arange(SAMPLES) % 5


def test_crd_normalises_by_its_first_batch_for_good():
    torch.manual_seed(0)
    contrast = Contrast(8, 9, 5, SAMPLES, 0.1, 0.5)
    contrast.candidates, contrast.classes = torch.arange(SAMPLES), LABELS
    assert contrast.log_mean.isnan().all()
    seen = []
    for step in range(2):
        index = torch.tensor([step, step + 1])
        loss = contrast(
            torch.randn(2, 8), torch.randn(2, 9), LABELS[index], index, contrast.draw(99)
        )
        seen.append(contrast.log_mean.clone())
        assert loss.isfinite()
    assert seen[0].isfinite().all() and torch.equal(*seen)


def test_crd_of_a_single_class_has_no_negatives_and_stays_finite():
    contrast = Contrast(8, 9, 5, SAMPLES, 0.1, 0.5)
    contrast.candidates, contrast.classes = torch.arange(SAMPLES), torch.zeros(SAMPLES).long()
    index = torch.tensor([1, 2])
    loss = contrast(torch.randn(2, 8), torch.randn(2, 9), index * 0, index, contrast.draw(99))
    loss.backward()
    assert loss.isfinite() and contrast.log_mean.isnan().all()
    assert contrast.project_student.weight.grad.isfinite().all()


def test_what_is_recalled_is_a_constant_copy():
    memory = torch.randn(5, 3)
    index = torch.tensor([3, 0, 3])
    found = recall(memory, index)
    expected = memory[index].clone()
    memory.zero_()
    assert torch.equal(found, expected) and not found.requires_grad
    torch.library.opcheck(recall, (torch.randn(5, 3), index))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives is 0; expected an integer of at least 1"),
        ({"negatives": True}, "negatives is True; expected an integer of at least 1"),
        ({"width": 2.5}, "width is 2.5; expected an integer of at least 1"),
        ({"tau": -math.inf}, "tau is -inf"),
        ({"momentum": 1.5}, r"momentum is 1.5; expected a finite number in \[0, 1\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(UserError, match=message):
        CRD(**options)
