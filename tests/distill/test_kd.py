"""What is particular to KD; its formulas are tested in test_logit_algorithms.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from edufast.distill import KD
from edufast.utils.errors import UserError
from tests.distill.cases import BATCH, cross_entropy, draw, kl, rows_of


def test_alpha_mixes_cross_entropy_and_divergence():
    logits, outputs, labels = draw("several")
    hard, soft, mixed = (
        KD(alpha=alpha).logit_loss(logits, outputs, labels) for alpha in (1.0, 0.0, 0.25)
    )
    torch.testing.assert_close(hard, F.cross_entropy(logits, labels))
    torch.testing.assert_close(mixed, 0.25 * hard + 0.75 * soft)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js", "dkd"])
def test_a_student_that_agrees_has_nothing_to_distil(divergence):
    _, outputs, labels = draw("full")
    loss = KD(alpha=0.0, divergence=divergence).logit_loss(outputs.logits[0], outputs, labels)
    torch.testing.assert_close(loss, torch.zeros(()), rtol=0, atol=1e-6)


def test_parameters_of_the_divergence_are_the_operators():
    """Jensen-Shannon with beta 0.9 instead of 0.5."""
    logits, outputs, labels = draw("full")
    loss = KD(1.0, 0.0, divergence="js", divergence_params=[0.9]).logit_loss(
        logits, outputs, labels
    )
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(BATCH):
        p, q = (torch.softmax(x, 0) for x in rows_of(outputs, logits, 0, row))
        middle = 0.9 * q + 0.1 * p
        expected = expected + (0.9 * kl(q, middle) + 0.1 * kl(p, middle)) / BATCH
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)


def test_reverse_kl_leaves_out_classes_that_no_teacher_knows():
    """Their mass would make it infinite; cross-entropy still sees them."""
    logits, outputs, labels = draw("gated")
    assert outputs.logits[0].isneginf().any()
    loss = KD(divergence="reverse_kl").logit_loss(logits, outputs, labels)
    assert loss.isfinite()
    (grad,) = torch.autograd.grad(loss, logits)
    unknown = outputs.logits[0].isneginf()
    hard = 0.3 * cross_entropy(logits, labels)
    (expected,) = torch.autograd.grad(hard, logits)
    torch.testing.assert_close(grad[unknown], expected[unknown])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0; expected a finite number above 0"),
        ({"alpha": 1.5}, r"alpha is 1.5; expected a finite number in \[0, 1\]"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"divergence": "l1"}, "divergence is 'l1'; expected one of forward_kl"),
        ({"divergence": "revers_kl"}, "did you mean 'reverse_kl'"),
        ({"divergence": ["js"]}, r"divergence is \['js'\]; expected one of"),
        (
            {"divergence": "js", "divergence_params": [2]},
            r"divergence_params\[0\] is 2.0; expected",
        ),
        ({"divergence": "js", "divergence_params": 0.3}, "is 0.3; expected a sequence of numbers"),
        ({"divergence": "dkd", "divergence_params": [1]}, "has 1 numbers; expected 2 for dkd"),
        (
            {"divergence": "dkd", "divergence_params": [1, True]},
            "is True; expected a finite number",
        ),
        ({"divergence_params": [0.5]}, "has 1 numbers; expected 0 for forward_kl"),
        ({"weighting": "entropie"}, "weighting is 'entropie'; did you mean 'entropy'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(UserError, match=message):
        KD(**options)
