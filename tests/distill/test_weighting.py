"""How much each teacher counts: the papers' weightings, and users' own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edufast.distill import ALGORITHMS, KD, WEIGHTINGS, create_algorithm, register_weighting
from edufast.distill.weighting import find_weighting, operator_weighting, slices_of, weights
from edufast.utils.errors import UserError
from tests.distill.cases import BATCH, draw

LOGIT = [name for name in ALGORITHMS if not create_algorithm(name).reads_features]
OURS = list(WEIGHTINGS)


@pytest.fixture(autouse=True)
def registrations_are_forgotten(monkeypatch):
    monkeypatch.setattr(WEIGHTINGS, "_entries", dict(WEIGHTINGS._entries))


@pytest.mark.parametrize("weighting", OURS)
@pytest.mark.parametrize("name", LOGIT)
def test_weightings_of_several_teachers_are_the_papers(name, weighting):
    """A loss with weights is the same mixture of the losses with one teacher each."""
    logits, outputs, labels = draw("several")
    algorithm = create_algorithm(name, weighting=weighting)
    temperature = algorithm.temperature
    answers = [answer.double() for answer in outputs.logits]
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
    found = weights(find_weighting(weighting), logits, outputs, labels, temperature)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.sum(1), torch.ones(BATCH))
    loss = algorithm.logit_loss(logits, outputs, labels)
    torch.testing.assert_close(loss, mixture(name, found, logits, outputs, labels), **CLOSE)


CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def mixture(name, found, logits, outputs, labels) -> Tensor:
    """The losses with one teacher each, mixed by the weights ``found`` (B, K)."""

    def alone(rows: slice, answer: Tensor) -> Tensor:
        one = outputs._replace(logits=[answer[rows]])
        return create_algorithm(name).logit_loss(logits[rows], one, labels[rows])

    if name == "dist":  # compares columns over the batch, so a teacher has one weight for all of it
        losses = torch.stack([alone(slice(None), answer) for answer in outputs.logits])
        return (losses * found.mean(0)).sum()
    total = torch.zeros(())
    for row in range(BATCH):
        losses = torch.stack([alone(slice(row, row + 1), answer) for answer in outputs.logits])
        total = total + (losses * found[row]).sum() / BATCH
    return total


def min_norm_by_search(grads: Tensor) -> Tensor:
    """The convex combination of three gradients with the smallest norm, on a grid of 0.001."""
    a = torch.linspace(0, 1, 1001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(a, a, indexing="ij"), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1]
    points = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    gram = grads @ grads.T
    return points[((points @ gram) * points).sum(1).argmin()]


@pytest.mark.parametrize("weighting", OURS)
def test_routing_comes_before_any_weighting(weighting):
    logits, outputs, labels = draw("routed")
    chosen = find_weighting(weighting)
    assert operator_weighting(chosen, logits, outputs, labels, 4.0) == "routed"
    found = weights(chosen, logits, outputs, labels, 4.0)
    assert found.tolist() == [[1, 0]] * 7 + [[0, 1]] * 5


def test_without_slices_each_teacher_has_all_its_columns():
    _, outputs, _ = draw("several")
    slices = slices_of(outputs)
    assert slices.starts == (0, 0, 0) and slices.sizes == (7, 7, 7)
    routed = draw("routed")[1]
    assert slices_of(routed) is routed.slices


# --- users' own ------------------------------------------------------------------------------


def by_row(logits, outputs, labels, temperature) -> Tensor:
    """The more a teacher's logits spread, the more it counts."""
    return torch.softmax(torch.stack([t.std(1) for t in outputs.logits], 1) / temperature, 1)


def by_teacher(logits, outputs, labels, temperature) -> Tensor:
    return torch.tensor([0.5, 0.2, 0.3])


@pytest.mark.parametrize("own", [by_row, by_teacher])
@pytest.mark.parametrize("name", LOGIT)
def test_a_function_weighs_in_every_algorithm(name, own):
    logits, outputs, labels = draw("several")
    algorithm = create_algorithm(name, weighting=own)
    found = own(logits, outputs, labels, algorithm.temperature).expand(BATCH, 3)
    loss = algorithm.logit_loss(logits, outputs, labels)
    torch.testing.assert_close(loss, mixture(name, found, logits, outputs, labels), **CLOSE)


def test_a_function_is_told_everything_and_gives_constants():
    told = []

    def own(logits, outputs, labels, temperature):
        told.append((logits, outputs, labels, temperature))
        return torch.softmax(logits[:, :3], 1)  # of the student: a gradient could flow

    logits, outputs, labels = draw("several")
    loss = KD(temperature=2.0, alpha=0.0, weighting=own).logit_loss(logits, outputs, labels)
    (grad,) = torch.autograd.grad(loss, logits)
    assert told[0][0] is logits and told[0][1] is outputs and told[0][2] is labels
    assert told[0][3] == 2.0
    fixed = torch.softmax(logits.detach()[:, :3], 1)
    constant = KD(temperature=2.0, alpha=0.0, weighting=lambda *_: fixed)
    (expected,) = torch.autograd.grad(constant.logit_loss(logits, outputs, labels), logits)
    torch.testing.assert_close(grad, expected)


def test_a_weighting_is_registered_by_a_decorator():
    register_weighting("spread")(by_row)
    assert find_weighting("spread") is by_row and KD(weighting="spread").weighting is by_row


def test_a_weighting_is_found_by_its_import_path_and_its_entry_point(mypackage):
    mypackage.write(weights="import torch\ndef mine(*_): return torch.tensor([0.5, 0.2, 0.3])\n")
    mypackage.declare("edufast.weightings", favourite="mypackage.weights:mine")
    logits, outputs, labels = draw("several")
    expected = KD(weighting=by_teacher).logit_loss(logits, outputs, labels)
    for name in ("mypackage.weights:mine", "favourite"):
        loss = create_algorithm("kd", weighting=name).logit_loss(logits, outputs, labels)
        assert torch.equal(loss, expected)


def test_what_is_no_weighting_is_told(mypackage):
    mypackage.write(weights="mine = [0.5, 0.5]\n")
    for weighting, message in (
        ("vote", "'vote'; expected one of mean, entropy, confidence, aekd; or an import path"),
        ("entropie", "did you mean 'entropy'?"),
        ("mypackage.weights:mine", "'mypackage.weights:mine' is a list; expected a class or func"),
        ("mypackage.weights:mein", "did you mean 'mine'"),
        (3, "3; expected a name or an import path"),
    ):
        with pytest.raises(UserError, match=f"algorithm 'mse': weighting.*{message}"):
            create_algorithm("mse", weighting=weighting)


@pytest.mark.parametrize("name", ["kd", "mse"])
def test_what_a_weighting_does_wrong_is_told(name):
    logits, outputs, labels = draw("several")

    def told(own, message):
        with pytest.raises(UserError, match=message) as caught:
            create_algorithm(name, weighting=own).logit_loss(logits, outputs, labels)
        assert "\n" not in str(caught.value)

    def failing(logits, outputs, labels, temperature):
        return outputs.logit

    told(failing, r"weighting '.*failing': AttributeError: .*'logit'.* \(.*test_weighting.py, line")
    told(lambda *_: [1, 2, 3], r"returned list; expected a Tensor \(3,\) or \(12, 3\)")
    told(lambda *_: torch.ones(3, 12), r"returned a Tensor \(3, 12\); expected a Tensor \(3,\)")
    told(lambda logits: logits, r"TypeError: .* takes 1 positional argument but 4 were given")
