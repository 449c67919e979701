"""Problems for the backends of dist_loss, their fp64 truth, and how close an answer has to be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edufast.ops import dist_loss
from tests.ops.cuda_emulation.driver import load_operator
from tests.ops.devices import to_gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    rows: int = 6
    classes: int = 23
    dtype: torch.dtype = torch.float32
    teacher_dtype: torch.dtype | None = None  # None: like the student
    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    scale: float = 3.0  # standard deviation of the logits
    seed: int = 0


def inputs(case: Case, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    z, t = (
        torch.randn(case.rows, case.classes, generator=generator, dtype=torch.float64) * case.scale
        for _ in range(2)
    )
    return z.to(case.dtype).to(device), t.to(case.teacher_dtype or case.dtype).to(device)


def evaluate(z: Tensor, t: Tensor, backend: str, case: Case) -> tuple[Tensor, Tensor]:
    """The loss and its gradient, on the device of the logits."""
    if backend == "emulated":
        load_operator("dist_loss")
        operator = torch.ops.edufast_emulated.dist_loss
        loss, grad = operator(z.detach(), t, case.temperature, case.beta, case.gamma)
        return loss, grad.to(z.dtype)
    if backend == "cuda" and not z.is_cuda:
        loss, grad = evaluate(to_gpu(z.detach()), to_gpu(t.detach()), backend, case)
        return loss.cpu(), grad.cpu()
    z = z.detach().requires_grad_()
    loss = dist_loss(
        z, t, temperature=case.temperature, beta=case.beta, gamma=case.gamma, backend=backend
    )
    return loss.detach(), torch.autograd.grad(loss, z, materialize_grads=True)[0]


def _gradient_unit(z: Tensor, t: Tensor, case: Case) -> float:
    """The size of the terms p q' / (|p'| |q'|) and p p' / |p'|^2 that cancel in the gradient.

    With q instead of the centred q': centring keeps the rounding errors of what it is applied to.
    """
    p, q = (torch.softmax(x.double() / case.temperature, 1) for x in (z, t))
    total = torch.zeros_like(p)
    for dim, weight in ((1, case.beta), (0, case.gamma)):
        p_norm, q_norm = (
            (x - x.mean(dim, keepdim=True)).norm(dim=dim, keepdim=True) for x in (p, q)
        )
        largest = [x.amax(dim, keepdim=True) for x in (p, q)]
        terms = largest[1] + largest[0] * q_norm / p_norm.clamp_min(1e-30)
        total += weight * p * terms / (p_norm * q_norm + 1e-8) / p.shape[1 - dim]
    return case.temperature * total.max().item()


def assert_accurate(case: Case, backend: str, device: str = "cpu") -> None:
    """As close to the fp64 truth as eager PyTorch in the same type, up to a few roundings."""
    z, t = inputs(case, device)
    exact = evaluate(z.double(), t.double(), "reference", case)
    eager = evaluate(z, t, "reference", case)
    ours = evaluate(z, t, backend, case)
    units = (case.temperature**2 * (case.beta + case.gamma), _gradient_unit(z, t, case))
    for name, a, b, c, size in zip(("loss", "gradient"), ours, eager, exact, units, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        error, eager_error = ((x.double() - c).abs().max().item() for x in (a, b))
        eps = torch.finfo(a.dtype).eps
        allowed = eager_error + 4 * eps * c.abs().max().item() + 4 * 2**-23 * size
        assert error <= allowed, (
            f"{name}: error {error:.3g}, eager PyTorch's {eager_error:.3g}, allowed {allowed:.3g}"
        )
