"""The divergences against their derivation in docs/kernels.md, and their corners."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edufast.ops.reference import kd_loss_divergences as reference
from edufast.ops.reference.kd_loss_divergences import DEFAULT_PARAMS, DIVERGENCES, Pair, divergence
from tests.ops import cases
from tests.ops.kd_loss_derivation import derived

PARAMS = {**DEFAULT_PARAMS, "js": (0.3,)}


def pair(rows: int = 5, classes: int = 7, scale: float = 2.0) -> Pair:
    generator = torch.Generator().manual_seed(rows)
    z, t = (
        torch.randn(rows, classes, generator=generator, dtype=torch.float64) * scale
        for _ in range(2)
    )
    label = torch.randint(classes, (rows,), generator=generator)
    return Pair(z, t, label, torch.ones(rows, dtype=torch.bool))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradients_are_those_of_the_derivation(name: str) -> None:
    """The coefficients that C++, CUDA and Triton compute, against autograd."""
    x = pair()
    leaves = x.z.requires_grad_(), x.t.requires_grad_()
    value = divergence(DIVERGENCES[name], PARAMS[name], x)
    grads = torch.autograd.grad(value.sum(), leaves)
    is_label = torch.nn.functional.one_hot(x.label, 7).bool()
    d = derived(name, x.z.detach(), x.t.detach(), is_label, PARAMS[name])
    torch.testing.assert_close(value.detach(), d.value[:, 0], rtol=1e-12, atol=1e-14)
    for grad, side in zip(grads, (d.student, d.teacher), strict=True):
        torch.testing.assert_close(grad, side.gradient(is_label), rtol=1e-10, atol=1e-14)
        own_mean = (side.log_a.exp() * side.log_ratio).sum(1, keepdim=True)
        if side.coefficients.ratio.any():
            torch.testing.assert_close(side.coefficients.mean, own_mean)


def test_every_divergence_is_in_the_list_the_switch_and_the_tests() -> None:
    assert list(DIVERGENCES.values()) == list(range(len(DIVERGENCES)))
    assert tuple(DIVERGENCES) == tuple(DEFAULT_PARAMS) == cases.DIVERGENCES
    x = pair()
    for name, number in DIVERGENCES.items():
        function: Callable[..., Tensor] = getattr(reference, name)
        by_name, by_number = (function(x, *PARAMS[name]), divergence(number, PARAMS[name], x))
        assert torch.equal(by_name, by_number)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_equal_sides_differ_by_nothing(name: str) -> None:
    x = pair()
    value = divergence(DIVERGENCES[name], PARAMS[name], x._replace(t=x.z))
    torch.testing.assert_close(value, torch.zeros_like(value))


def test_js_is_symmetric_when_the_shares_are_exchanged_with_the_sides() -> None:
    x = pair()
    exchanged = x._replace(z=x.t, t=x.z)
    torch.testing.assert_close(reference.js(x, 0.2), reference.js(exchanged, 0.8))


def test_dkd_without_the_label_is_its_second_term() -> None:
    x = pair()
    absent = x._replace(has_label=torch.zeros(5, dtype=torch.bool))
    expected = 8 * reference.forward_kl(x)
    torch.testing.assert_close(reference.dkd(absent, 1.0, 8.0), expected)


def test_mass_against_a_mask_is_infinite_and_js_is_not() -> None:
    x = pair()
    x.z[0, 1] = -math.inf
    x.t[1, 1] = -math.inf
    infinite = [True, False, False, False, False]
    assert torch.isinf(reference.forward_kl(x)).tolist() == infinite
    assert torch.isinf(reference.reverse_kl(x)).tolist() == [False, True, False, False, False]
    assert torch.isfinite(reference.js(x, 0.5)).all()
