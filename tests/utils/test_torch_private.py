"""What of torch's private modules is relied on: a release that changes it fails here first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import edufast.ops  # noqa: F401  (registers torch.ops.edufast)
from edufast.utils import _torch_private as private


def test_the_schema_of_an_operator_is_what_follows_its_name() -> None:
    schema = private.schema_of(torch.ops.edufast.min_norm_weights.default)
    assert schema == "(Tensor gram, float cap, Tensor? numbers=None) -> Tensor"


def test_kernels_are_found_by_dispatch_key() -> None:
    assert private.has_kernel("edufast::kd_loss", "CPU")
    assert not private.has_kernel("edufast::dist_loss", "MPS")


def test_a_float_that_changes_is_no_constant_of_a_graph() -> None:
    def step(x: Tensor, p: float) -> Tensor:
        seen.append(private.is_constant(1 - p))
        return x * p

    seen: list[bool] = []
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    for p in (0.25, 0.5, 0.75):
        compiled(torch.ones(2), p)
    assert seen == [True, False, False]


def test_a_float_can_be_made_a_constant_of_a_graph() -> None:
    def step(x: Tensor, p: float) -> Tensor:
        seen.append(private.is_constant(private.as_constant(1 - p)))
        return x * p

    seen: list[bool] = []
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    for p in (0.25, 0.5, 0.75):
        assert compiled(torch.ones(2), p).eq(p).all()
    assert seen == [True, True, True]


def test_below_autograd_nothing_is_recorded() -> None:
    x = torch.ones(2, requires_grad=True)
    with private.below_autograd():
        assert not (x * 2).requires_grad
    with private.below_in_place():
        y = torch.zeros(2)
        version = y._version
        y.add_(1)
        assert y._version == version
    assert (x * 2).requires_grad


def test_a_backward_pass_knows_whether_its_graph_is_kept() -> None:
    seen = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            seen.append(private.graph_is_kept())
            return grad

    loss = Look.apply(torch.ones(2, requires_grad=True)).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert seen == [True, False]


def test_numbers_are_at_hand_on_the_cpu_outside_of_tracing() -> None:
    x = torch.ones(2)
    assert private.values_are_at_hand(x)
    assert not private.values_are_at_hand(x.to("meta"))
    with FakeTensorMode():
        assert not private.values_are_at_hand(torch.ones(2))
    seen = []
    torch.func.vmap(lambda y: seen.append(private.values_are_at_hand(y)) or y)(x)
    compiled = torch.compile(
        lambda y: y + 1 if private.values_are_at_hand(y) else y - 1, backend="eager", fullgraph=True
    )
    assert seen == [False] and compiled(x).tolist() == [0, 0]


def test_a_copy_with_its_own_code_does_the_same() -> None:
    offset = 2

    def add(x: int, y: int = 1) -> int:
        return x + y + offset

    copy = private.with_own_code(add)
    assert copy(3) == add(3) == 6 and copy.__code__ is not add.__code__
    assert copy.__name__ == "add"
