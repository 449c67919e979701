"""Every logit algorithm against its paper's formula, written out row by row in float64.

All run on what a Supervision gives: one full teacher, several, routed, gated; see cases.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edufast.distill import ALGORITHMS, Algorithm, create_algorithm
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import WEIGHTINGS, find_weighting, operator_weighting, weights
from edufast.utils.errors import UserError
from tests.distill.cases import (
    BATCH,
    KINDS,
    columns,
    cross_entropy,
    kl,
    outputs,
    possible,
    read,
    rows_of,
    weight_of,
)

LOGIT = [name for name in ALGORITHMS if not create_algorithm(name).reads_features]


def averaged(said: TeacherOutputs, logits: Tensor, of_row) -> Tensor:
    """Mean over the rows of the weighted sum over the teachers of ``of_row(z, t, k, row)``."""
    terms = [
        weight_of(said, k, row) * of_row(*rows_of(said, logits, k, row), k, row)
        for row in range(BATCH)
        for k in range(len(said.logits))
        if read(said, k, row)
    ]
    return torch.stack(terms).sum() / BATCH


def soft_kl(temperature: float):
    def of_row(z, t, k, row):
        p, q = torch.softmax(t / temperature, 0), torch.softmax(z / temperature, 0)
        return temperature**2 * kl(p, q)

    return of_row


def kd(said, logits, labels):
    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(said, logits, soft_kl(4.0))


def reverse_kl(said, logits, labels):
    def of_row(z, t, k, row):
        return soft_kl(4.0)(*possible(z, t)[::-1], k, row)

    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(said, logits, of_row)


def js(said, logits, labels):
    def of_row(z, t, k, row):
        p, q = torch.softmax(t / 4, 0), torch.softmax(z / 4, 0)
        middle = (p + q) / 2
        return 16 * (kl(p, middle) + kl(q, middle)) / 2

    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(said, logits, of_row)


def dkd(said, logits, labels):
    def of_row(z, t, k, row):
        p, q = torch.softmax(t / 4, 0), torch.softmax(z / 4, 0)
        y = columns(said, k).index(int(labels[row]))
        rest = torch.arange(len(t)) != y
        target = kl(torch.stack([p[y], 1 - p[y]]), torch.stack([q[y], 1 - q[y]]))
        other = kl(p[rest] / p[rest].sum(), q[rest] / q[rest].sum())
        return 16 * (target + 8 * other)

    return cross_entropy(logits, labels) + averaged(said, logits, of_row)


def standardised(said, logits, labels):
    def of_row(z, t, k, row):
        def score(x):
            return (x - x.mean()) / (x.var(unbiased=False) + 1e-7).sqrt()

        z, t = possible(z, t)
        return soft_kl(2.0)(score(z), score(t), k, row)

    return 0.1 * cross_entropy(logits, labels) + 9 * averaged(said, logits, of_row)


def mse(said, logits, labels):
    def of_row(z, t, k, row):
        z, t = possible(z, t)
        return (((z - z.mean()) - (t - t.mean())) ** 2).mean()

    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(said, logits, of_row)


def dist(said, logits, labels):
    def pearson(a, b):
        both = torch.stack([a, b])
        return torch.corrcoef(both)[0, 1] if bool((both.std(1) > 0).all()) else torch.tensor(0.0)

    loss = cross_entropy(logits, labels)
    for k, answer in enumerate(said.logits):
        part = said.rows[k] if said.weighting == "routed" else slice(None)
        q = torch.softmax(answer[part].double(), 1)
        p = torch.softmax(logits[part].double()[:, columns(said, k)], 1)
        if said.slices is None:
            p = torch.softmax(logits[part].double(), 1)
        rows = torch.stack([pearson(a, b) for a, b in zip(p, q, strict=True)]).mean()
        by_column = torch.stack([pearson(a, b) for a, b in zip(p.T, q.T, strict=True)]).mean()
        share = len(p) / BATCH if said.weighting == "routed" else 1 / len(said.logits)
        loss = loss + share * ((1 - rows) + (1 - by_column))
    return loss


TRUTH = {f.__name__: f for f in (kd, reverse_kl, js, dkd, dist, standardised, mse)}


def test_every_logit_algorithm_is_tested():
    assert set(LOGIT) == set(TRUTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGIT)
def test_loss_and_gradient_are_the_formulas(name, kind):
    logits, said, labels = outputs(kind)
    loss = create_algorithm(name).logit_loss(logits, said, labels)
    (grad,) = torch.autograd.grad(loss, logits)
    exact = TRUTH[name](said, logits, labels)
    (expected,) = torch.autograd.grad(exact, logits)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.double(), exact, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected, rtol=2e-4, atol=2e-6)
    assert grad.abs().amax(1).gt(0).all()  # every row learns something


@pytest.mark.parametrize("name", LOGIT)
def test_no_gradient_flows_into_teachers(name):
    logits, said, labels = outputs("several")
    answers = [answer.requires_grad_() for answer in said.logits]
    create_algorithm(name).logit_loss(logits, said, labels).backward()
    assert logits.grad is not None and all(answer.grad is None for answer in answers)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", LOGIT)
def test_weightings_of_several_teachers_are_the_papers(name, weighting):
    """A loss with weights is the same mixture of the losses with one teacher each."""
    logits, said, labels = outputs("several")
    algorithm = create_algorithm(name, weighting=weighting)
    temperature = algorithm.temperature
    answers = [answer.double() for answer in said.logits]
    if weighting == "entropy":
        p = torch.stack([torch.softmax(t, 1) for t in answers], 1)
        entropy = -(p * p.log()).sum(2)
        expected = (1 - entropy / entropy.sum(1, keepdim=True)) / 2
    elif weighting == "confidence":
        hard = [-torch.log_softmax(t, 1)[range(BATCH), labels] for t in answers]
        expected = (1 - torch.softmax(torch.stack(hard, 1), 1)) / 2
    elif weighting == "mean":
        expected = torch.full((BATCH, 3), 1 / 3, dtype=torch.float64)
    else:
        student = torch.softmax(logits.detach().double() / temperature, 1)
        grads = [student - torch.softmax(t / temperature, 1) for t in answers]
        expected = min_norm_by_search(torch.stack([g.flatten() for g in grads])).expand(BATCH, 3)
    found = weights(find_weighting(weighting), logits, said, labels, temperature)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.sum(1), torch.ones(BATCH))

    loss = algorithm.logit_loss(logits, said, labels)
    if name == "dist":
        found = found.mean(0).expand(BATCH, 3)
    by_row = torch.zeros(())
    for row in range(BATCH):  # weights differ by row, so the loss is taken row by row
        if name == "dist":
            break
        one = slice(row, row + 1)
        alone = [
            create_algorithm(name).logit_loss(
                logits[one], said._replace(logits=[answer[one]]), labels[one]
            )
            for answer in said.logits
        ]
        by_row = by_row + (torch.stack(alone) * found[row]).sum() / BATCH
    if name == "dist":
        alone = [
            create_algorithm(name).logit_loss(logits, said._replace(logits=[answer]), labels)
            for answer in said.logits
        ]
        by_row = (torch.stack(alone) * found[0]).sum()
    torch.testing.assert_close(loss, by_row, rtol=1e-4, atol=1e-5)


def min_norm_by_search(grads: Tensor) -> Tensor:
    """The convex combination of three gradients with the smallest norm, on a grid of 0.001."""
    a = torch.linspace(0, 1, 1001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(a, a, indexing="ij"), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1]
    points = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    gram = grads @ grads.T
    return points[((points @ gram) * points).sum(1).argmin()]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_routing_comes_before_any_weighting(weighting):
    logits, said, labels = outputs("routed")
    chosen = find_weighting(weighting)
    assert operator_weighting(chosen, logits, said, labels, 4.0) == "routed"
    found = weights(chosen, logits, said, labels, 4.0)
    assert found.tolist() == [[1, 0]] * 7 + [[0, 1]] * 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGIT)
def test_flat_student_and_half_precision_teachers_stay_finite(name, kind):
    """The first step of a student whose classifier is zero; teachers may run in bfloat16."""
    _, said, labels = outputs(kind)
    logits = torch.zeros(BATCH, 7, requires_grad=True)
    said = said._replace(logits=[answer.bfloat16() for answer in said.logits])
    loss = create_algorithm(name).logit_loss(logits, said, labels)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_a_slice_of_one_class_says_nothing():
    logits, said, labels = outputs("several")
    from edufast.ops import ClassSlices

    lone = said._replace(
        logits=[said.logits[0][:, :1]], slices=ClassSlices.of([(0, 1)], 7), weighting="mean"
    )
    for name, alpha in (("kd", 0.3), ("standardised", 0.1), ("mse", 0.3), ("dkd", 1.0)):
        loss = create_algorithm(name).logit_loss(logits, lone, labels)
        torch.testing.assert_close(loss.double(), alpha * cross_entropy(logits, labels))


def test_ignored_rows_count_for_nothing():
    logits, said, labels = outputs("several")
    ignored = labels.clone()
    ignored[4:] = -100
    first = said._replace(logits=[answer[:4] for answer in said.logits])
    for name in ("kd", "dkd", "standardised", "mse"):
        algorithm = create_algorithm(name)
        loss = algorithm.logit_loss(logits, said, ignored)
        torch.testing.assert_close(loss, algorithm.logit_loss(logits[:4], first, labels[:4]))


def test_dkd_warms_up_without_a_new_constant():
    """The factor is a buffer: a compiled step that reads it need not be compiled anew."""
    logits, said, labels = outputs("full")
    algorithm = create_algorithm("dkd", warm_up=4)
    buffer = algorithm.warm
    full = algorithm.logit_loss(logits, said, labels)
    hard = cross_entropy(logits, labels).float()
    for epoch, share in enumerate([0.25, 0.5, 0.75, 1, 1]):
        algorithm.begin_epoch(epoch, 5)
        loss = algorithm.logit_loss(logits, said, labels)
        torch.testing.assert_close(loss, hard + share * (full - hard))
    assert algorithm.warm is buffer and math.isclose(algorithm.state_dict()["warm"], 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, "algorithm is 'magic'; expected one of kd, reverse_kl"),
        ("kd", {"beta": 1}, "algorithm 'kd': .*'beta'"),
        ("kd", {"temperature": 0}, "temperature is 0; expected a finite number above 0"),
        ("kd", {"temperature": "hot"}, "temperature is 'hot'; expected a finite number"),
        ("kd", {"alpha": 1.5}, r"alpha is 1.5; expected a finite number in \[0, 1\]"),
        ("kd", {"divergence": "l1"}, "divergence is 'l1'; expected one of 'forward_kl'"),
        ("mse", {"alpha": math.nan}, "alpha is nan"),
        ("dkd", {"warm_up": -1}, "warm_up is -1; expected a finite number of at least 0"),
        ("dist", {"beta": math.inf}, "beta is inf"),
        ("standardised", {"weighting": "vote"}, "weighting is 'vote'; expected one of 'mean'"),
    ],
)
def test_what_does_not_fit_is_told(name, options, message):
    with pytest.raises(UserError, match=message):
        create_algorithm(name, **options)


def test_an_algorithm_of_ones_own_needs_one_method():
    class Agree(Algorithm):
        def logit_loss(self, logits, outputs, labels):
            return (logits.argmax(1) != labels).float().mean()

    logits, said, labels = outputs("full")
    own = Agree(1.0)
    own.begin_epoch(0, 1)
    assert own.logit_loss(logits, said, labels) >= 0
    assert own.feature_loss([logits], said, labels) == 0 and not own.reads_features
