"""Softmax and KL divergence of rows that may hold -inf."""

from __future__ import annotations

import math

import torch

from edufast.ops.reference._softmax import kl, log_of_zero, softmax

INF = math.inf


def test_it_is_the_softmax_of_torch() -> None:
    x = torch.randn(5, 7, dtype=torch.float64)
    s = softmax(x, 3.0)
    torch.testing.assert_close(s.p, torch.softmax(x / 3, 1))
    torch.testing.assert_close(s.log_p, torch.log_softmax(x / 3, 1))
    assert not s.masked.any() and not s.empty.any()


def test_masked_classes_have_probability_zero_and_finite_gradients() -> None:
    x = torch.tensor([[0.0, -INF, 1.0], [-INF, -INF, -INF]], requires_grad=True)
    s = softmax(x)
    assert s.p[0, 1] == 0 and s.empty.tolist() == [False, True] and not s.p[1].any()
    s.p.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad[0]).all()


def test_kl_of_masks() -> None:
    """0 where the first argument has no mass, infinite where only the second has none."""
    whole, part, none = (
        softmax(torch.tensor([row])) for row in ([0.0, 1.0], [0.0, -INF], [-INF, -INF])
    )
    assert kl(whole, part).item() == INF
    torch.testing.assert_close(kl(part, whole).item(), math.log(1 + math.e), rtol=1e-6, atol=0)
    assert kl(none, whole).item() == kl(whole, none).item() == 0
    assert kl(whole, whole).item() == 0


def test_nan_stays_nan() -> None:
    s = softmax(torch.tensor([[0.0, math.nan], [0.0, 1.0]]))
    assert torch.isnan(kl(s, s)).tolist() == [True, False]


def test_the_logarithm_of_zero_is_finite_even_squared() -> None:
    for dtype in (torch.float32, torch.float64):
        assert log_of_zero(dtype) < -1e18 and math.isfinite(float(torch.tensor(
            log_of_zero(dtype), dtype=dtype) ** 2))  # fmt: skip
