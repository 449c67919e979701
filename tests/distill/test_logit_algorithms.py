"""What holds of every logit algorithm: it is the formula of its paper, and stays finite."""

from __future__ import annotations

import pytest
import torch

from edufast.distill import ALGORITHMS, create_algorithm
from edufast.ops import ClassSlices
from tests.distill.cases import BATCH, KINDS, cross_entropy, draw
from tests.distill.formulas import FORMULAS

LOGIT = [name for name in ALGORITHMS if not create_algorithm(name).reads_features]


def test_every_logit_algorithm_is_tested():
    assert set(LOGIT) == set(FORMULAS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGIT)
def test_loss_and_gradient_are_the_formulas(name, kind):
    logits, outputs, labels = draw(kind)
    loss = create_algorithm(name).logit_loss(logits, outputs, labels)
    (grad,) = torch.autograd.grad(loss, logits)
    exact = FORMULAS[name](outputs, logits, labels)
    (expected,) = torch.autograd.grad(exact, logits)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.double(), exact, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected, rtol=2e-4, atol=2e-6)
    assert grad.abs().amax(1).gt(0).all()  # every row learns something


@pytest.mark.parametrize("name", LOGIT)
def test_no_gradient_flows_into_teachers(name):
    logits, outputs, labels = draw("several")
    answers = [answer.requires_grad_() for answer in outputs.logits]
    create_algorithm(name).logit_loss(logits, outputs, labels).backward()
    assert logits.grad is not None and all(answer.grad is None for answer in answers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGIT)
def test_flat_student_and_half_precision_teachers_stay_finite(name, kind):
    """The first step of a student whose classifier is zero; teachers may run in bfloat16."""
    _, outputs, labels = draw(kind)
    logits = torch.zeros(BATCH, 7, requires_grad=True)
    outputs = outputs._replace(logits=[answer.bfloat16() for answer in outputs.logits])
    loss = create_algorithm(name).logit_loss(logits, outputs, labels)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_a_slice_of_one_class_says_nothing():
    logits, outputs, labels = draw("several")
    lone = outputs._replace(
        logits=[outputs.logits[0][:, :1]], slices=ClassSlices.of([(0, 1)], 7), weighting="mean"
    )
    for name, alpha in (("kd", 0.3), ("standardised", 0.1), ("mse", 0.3), ("dkd", 1.0)):
        loss = create_algorithm(name).logit_loss(logits, lone, labels)
        torch.testing.assert_close(loss.double(), alpha * cross_entropy(logits, labels))


def test_ignored_rows_count_for_nothing():
    logits, outputs, labels = draw("several")
    ignored = labels.clone()
    ignored[4:] = -100
    first = outputs._replace(logits=[answer[:4] for answer in outputs.logits])
    for name in ("kd", "dkd", "standardised", "mse"):
        algorithm = create_algorithm(name)
        loss = algorithm.logit_loss(logits, outputs, ignored)
        torch.testing.assert_close(loss, algorithm.logit_loss(logits[:4], first, labels[:4]))
