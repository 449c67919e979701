"""How far rounding takes every backend: no further than plain PyTorch in the same type.

``|ours - truth| <= |plain - truth| + 2 eps (|truth| + rounding)`` row by row, where ``rounding`` is
what rounding the softened logits alone does, from the derivation in docs/kernels.md.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from edufast.ops.reference.kd_loss_divergences import DEFAULT_PARAMS
from tests.ops.cases import DIVERGENCES, Case, Inputs, Outcome, evaluate, inputs, truth
from tests.ops.kd_loss_derivation import Divergence, derived

EPSILON = 2.0**-23


def in_float32(x: float) -> float:
    return torch.tensor(x).item()  # what is rounded on the way in is no error of the kernel


def between(low: float, high: float) -> st.SearchStrategy[float]:
    """As many numbers from 0.05 to 0.5 as from 10 to 100."""
    return st.floats(math.log(low), math.log(high)).map(math.exp).map(in_float32)


betas = between(1e-7, 0.5) | between(1e-7, 0.5).map(lambda x: 1 - x)
cases = st.builds(
    Case,
    rows=st.just(6),
    classes=st.sampled_from([2, 3, 10, 23, 100]),
    teachers=st.just(1),
    divergence=st.sampled_from(DIVERGENCES),
    temperature=between(0.05, 100),
    alpha=st.just(0.0),
    ignored=st.just(0),
    reduction=st.just("none"),
    teacher_grad=st.just(True),
    scale=st.sampled_from([0.1, 1.0, 3.0, 10.0]),
    seed=st.integers(0, 2**16),
)
STEEP = Case(
    rows=6, classes=10, teachers=1, divergence="js", temperature=1.7, alpha=0.0, ignored=0,
    reduction="none", teacher_grad=True, scale=0.1,
)  # fmt: skip


def plain(x: Inputs) -> Outcome:
    """As one writes it with PyTorch's own functions."""
    temperature, name = x.arguments["temperature"], x.arguments["divergence"]
    z, t = (logits.detach().requires_grad_() for logits in (x.student, x.teachers[0]))
    log_p, log_q = (F.log_softmax(logits / temperature, 1) for logits in (z, t))
    if name == "forward_kl":
        value = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    elif name == "reverse_kl":
        value = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    elif name == "js":
        (beta,) = x.arguments["divergence_params"]
        log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
        to_m = (F.kl_div(log_m, log, reduction="none", log_target=True) for log in (log_p, log_q))
        p_to_m, q_to_m = (kl.sum(1) for kl in to_m)
        value = beta * q_to_m + (1 - beta) * p_to_m
    else:
        value = plain_dkd(log_p, log_q, x.labels)
    loss = temperature**2 * value
    return Outcome(loss.detach(), list(torch.autograd.grad(loss.sum(), [z, t])))


def plain_dkd(log_p: Tensor, log_q: Tensor, labels: Tensor) -> Tensor:
    is_label = F.one_hot(labels, log_p.shape[1]).bool()

    def split(log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        others = log[~is_label].view(len(log), -1)
        rest = torch.logsumexp(others, 1)
        return log[is_label], rest, others - rest[:, None]

    (p_label, p_rest, p_hat), (q_label, q_rest, q_hat) = split(log_p), split(log_q)
    target, other = DEFAULT_PARAMS["dkd"]
    binary = q_label.exp() * (q_label - p_label) + q_rest.exp() * (q_rest - p_rest)
    rest = F.kl_div(p_hat, q_hat, reduction="none", log_target=True).sum(1)
    return target * binary + other * rest


def rounding(x: Inputs) -> list[Tensor]:
    """Of the loss, of the student's gradient and of the teacher's, (B,) each."""
    temperature = x.arguments["temperature"]
    is_label = F.one_hot(x.labels, x.student.shape[1]).bool()
    d: Divergence = derived(
        x.arguments["divergence"],
        x.student.double() / temperature,
        x.teachers[0].double() / temperature,
        is_label,
        x.arguments["divergence_params"] or DEFAULT_PARAMS[x.arguments["divergence"]],
    )
    gradients = [temperature * side.rounding() for side in (d.student, d.teacher)]
    return [temperature**2 * d.rounding, *gradients]


def assert_no_worse_than_plain(case: Case, beta: float, backend: str, device: str = "cpu") -> None:
    if case.divergence == "js":
        case = case.but(divergence_params=(beta,))
    x = inputs(case)
    exact, eager, allowed = truth(x), plain(x), rounding(x)
    ours = evaluate(inputs(case, device), backend)
    names = ("loss", "gradient of student", "gradient of teachers[0]")
    outcomes = ([o.loss, *o.grads] for o in (ours, eager, exact))
    for name, a, b, c, unit in zip(names, *outcomes, allowed, strict=True):
        error, eager_error, size = (
            y.reshape(case.rows, -1).abs().amax(1) for y in (a.cpu().double() - c, b - c, c)
        )
        bound = eager_error.max() + 2 * EPSILON * (size + unit)
        assert (error <= bound).all(), f"{name}: {error} where {bound} is allowed"


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@settings(max_examples=400, deadline=None, derandomize=True)
@given(case=cases, beta=betas)
@example(case=STEEP, beta=1e-7)
@example(case=STEEP, beta=1 - 1e-7)
@example(case=STEEP.but(divergence="reverse_kl", temperature=0.05, scale=1.0), beta=0.5)
@example(case=STEEP.but(divergence="forward_kl", temperature=100.0, scale=1.0), beta=0.5)
def test_no_backend_is_worse_than_plain_pytorch(backend, case, beta):
    assert_no_worse_than_plain(case, beta, backend)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases, beta=betas)
@example(case=STEEP, beta=1e-7)
@example(case=STEEP, beta=1 - 1e-7)
def test_triton_is_no_worse_than_plain_pytorch(case, beta):
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert_no_worse_than_plain(case, beta, "triton", device)


@pytest.mark.parametrize("backend", ["reference", "cpp", "triton"])
@pytest.mark.parametrize("beta", [1e-7, 1 - 1e-7])
def test_js_keeps_its_digits_when_a_share_is_tiny(backend, beta):
    """19 % off while 1 - beta was formed in float32; far more as long as m was."""
    device = "cpu"
    if backend == "triton":
        pytest.importorskip("triton")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    case = STEEP.but(divergence_params=(beta,), scale=1.0)
    exact, ours = truth(inputs(case)), evaluate(inputs(case, device), backend)
    for a, b in zip([ours.loss, *ours.grads], [exact.loss, *exact.grads], strict=True):
        assert ((a.cpu().double() - b).abs() <= 1e-3 * b.abs().amax()).all()
