"""Numbers that change from call to call in a compiled graph: never stale, and compiled twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from edufast.ops import augment, dist_loss, kd_loss, kd_loss_and_grad, min_norm_weights
from tests.ops.test_numbers import LABELS, T, Z, with_gradient

ANNEALED: dict[str, Callable[[Tensor, Any, str], Tensor]] = {
    "alpha": lambda z, p, b: kd_loss(z, [T], LABELS, alpha=1 - p, backend=b),
    "temperature": lambda z, p, b: kd_loss(z, [T], LABELS, temperature=1 + p, backend=b),
    "temperatures": lambda z, p, b: kd_loss(
        z, [T, -T], LABELS, temperature=[1 + p, 2 * p], backend=b
    ),
    "label_smoothing": lambda z, p, b: kd_loss(z, [T], LABELS, label_smoothing=p / 2, backend=b),
    "beta of js": lambda z, p, b: kd_loss(
        z, [T], LABELS, divergence="js", divergence_params=(1 - p,), backend=b
    ),
    "weights of dkd": lambda z, p, b: kd_loss(
        z, [T], LABELS, divergence="dkd", divergence_params=(2 * p, 1.0), backend=b
    ),
    "numbers of dist_loss": lambda z, p, b: dist_loss(
        z, T, temperature=1 + p, beta=2 * p, gamma=1 - p, backend=b
    ),
    "temperature of min_norm_weights": lambda z, p, b: kd_loss(
        z, [T, T + 1], LABELS, backend=b,
        weighting=min_norm_weights(z, [T, -T], temperature=1 + p, backend=b),
    ),
}  # fmt: skip
# More than the eight compilations after which torch.compile gives up.
VALUES = (0.1, 0.2, 0.3, 0.9, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36, 0.37, 0.38)


def values(backend: str) -> tuple[float, ...]:
    return VALUES if backend == "cpp" else VALUES[:4]


def assert_same(compiled: Callable[..., Tensor], step: Callable[..., Tensor], p: Any) -> None:
    for ours, expected in zip(with_gradient(compiled, p), with_gradient(step, p), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ANNEALED)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_float_out_of_arithmetic_is_never_stale_and_compiles_twice(name, backend):
    def step(z: Tensor, p: float) -> Tensor:
        return ANNEALED[name](z, p, backend) + p * z.square().mean()

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for p in values(backend):
        assert_same(compiled, step, p)
    assert counter.frame_count == 2  # with the first value, then for any


@pytest.mark.parametrize("name", ANNEALED)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_tensor_compiles_once(name, backend):
    def step(z: Tensor, p: Tensor) -> Tensor:
        return ANNEALED[name](z, p, backend) + p * z.square().mean()

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for p in values(backend):
        assert_same(compiled, step, torch.tensor(p))
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_number_of_numpy_compiles_twice_at_most(backend):
    """A schedule by np.linspace: torch.compile takes its numbers for arrays."""

    def step(z: Tensor, p: np.float64) -> Tensor:
        losses = kd_loss(z, [T], LABELS, alpha=1 - p, backend=backend)
        return losses + dist_loss(z, T, temperature=1 + p, beta=p, backend=backend)

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for p in np.linspace(0.1, 0.9, 4):
        assert_same(compiled, step, p)
    assert counter.frame_count <= 2


def test_kernels_in_triton_compile_as_often():
    pytest.importorskip("triton")
    for make, compilations in ((float, 2), (torch.tensor, 1)):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        step = lambda z, p: ANNEALED["temperature"](z, p, "triton") + p * z.square().mean()  # noqa: E731
        compiled = torch.compile(step, backend=counter, fullgraph=True)
        for p in values("triton"):
            assert_same(compiled, step, make(p))
        assert counter.frame_count == compilations


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_cap_out_of_arithmetic_is_never_stale(backend):
    def step(z: Tensor, p: float) -> Tensor:
        weights = min_norm_weights(z, [T, T / 2, -T], cap=0.4 + p / 2, backend=backend)
        return (weights * torch.arange(3)).sum() + p * z.square().mean()

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for p in values(backend):
        assert_same(compiled, step, p)
    assert counter.frame_count == 2


def test_a_cap_that_is_a_tensor_is_refused_in_one_line():
    def step(z: Tensor, cap: Tensor) -> Tensor:
        return min_norm_weights(z, [T, -T], cap=cap)

    for run in (step, torch.compile(step, backend="eager", fullgraph=True)):
        with pytest.raises(Exception, match="cap is a tensor; expected a float or None"):
            run(Z, torch.tensor(0.75))


def test_a_constant_is_no_tensor_in_the_graph():
    """A tensor would cost a launch, and one of the CPU keep CUDA graphs from being used."""

    def step(z: Tensor) -> Tensor:
        return kd_loss(z, [T], LABELS, temperature=3.0, alpha=0.5)

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    torch.compile(step, backend=counter, fullgraph=True)(Z)
    calls = [n for n in counter.graphs[0].graph.nodes if n.op.startswith("call")]
    assert [n for n in calls if "ones" in str(n.target) or "stack" in str(n.target)] == []


def test_loss_and_gradient_in_one_call_take_a_float_that_changes():
    def step(z: Tensor, p: float) -> tuple[Tensor, Tensor]:
        loss, grad = kd_loss_and_grad(z * p, [T], LABELS, temperature=1 + p, alpha=p)
        return loss + p, grad

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for p in VALUES:
        torch.testing.assert_close(compiled(Z, p), step(Z, p))
    assert counter.frame_count == 2


def test_floats_out_of_range_are_refused_while_tracing():
    def step(z: Tensor, p: float) -> Tensor:
        return kd_loss(z, [T], LABELS, alpha=1 - p)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager")
    compiled(Z, 0.25)
    compiled(Z, 0.5)
    with pytest.raises(ValueError, match=r"alpha is -1\.0; expected a number in"):
        compiled(Z, 2.0)


@pytest.mark.parametrize("name", ["ignore_index", "flip of augment"])
def test_whole_numbers_and_flags_made_of_a_float_are_never_stale(name):
    """Only torch's default backend kept old ones."""
    images, index = torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3), torch.tensor([0])

    def step(z: Tensor, p: float) -> Tensor:
        if name == "ignore_index":
            loss = kd_loss(z, [T], LABELS, ignore_index=int(10 * p))
        else:
            mean, std = (0.5,) * 3, (0.2,) * 3
            batch = augment(images, index, index + 1, mean=mean, std=std, pad=1, flip=p > 0.25)
            loss = batch.sum() + 0 * z.sum()
        return loss + p * z.square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True)
    for p in (0.1, 0.2, 0.3, 0.9):
        torch.testing.assert_close(compiled(Z, p), step(Z, p))
