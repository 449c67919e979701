"""Autograd of the fused losses, each hazard a test."""

from __future__ import annotations

import pytest
import torch

from edufast.ops import dist_loss, kd_loss
from edufast.ops._autograd import gradient_dtype, loss_dtype
from edufast.ops.kd_loss import kd_loss_arguments
from tests.ops import dist_cases
from tests.ops.cases import Case, assert_accurate, evaluate, inputs
from tests.ops.devices import on_gpu

DEVICE = {"cpp": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_upstream_gradient(reduction):
    x = inputs(Case(reduction=reduction, teacher_grad=True))
    upstreams = [torch.tensor(-3.0).expand(6), torch.randn(6)] if reduction == "none" else [
        torch.tensor(-3.0),
        torch.tensor(0.0),
    ]  # fmt: skip
    for upstream in upstreams:
        assert_accurate(x, evaluate(x, "cpp", upstream), upstream=upstream)


def test_a_second_loss_on_the_same_logits():
    x = inputs(Case())
    student = x.student.requires_grad_()
    before = student.detach().clone()
    first = kd_loss(student, x.teachers, x.labels, backend="cpp", **x.arguments)
    second = torch.nn.functional.cross_entropy(student, x.labels)
    (first + second).backward()
    assert torch.equal(student.detach(), before)
    expected = evaluate(x, "cpp").grads[0]
    student.grad = None
    torch.nn.functional.cross_entropy(student, x.labels).backward()
    torch.testing.assert_close(student.grad + expected, student.grad + expected)


def test_retain_graph_and_accumulation():
    """The gradient handed out must not be the one that is kept."""
    x = inputs(Case())
    student = x.student.requires_grad_()
    expected = evaluate(x, "cpp").grads[0]
    loss = kd_loss(student, x.teachers, x.labels, backend="cpp", **x.arguments)
    loss.backward(retain_graph=True)
    student.grad.mul_(100)  # as a gradient clipper might
    student.grad = None
    loss.backward(retain_graph=True)
    assert torch.equal(student.grad, expected)
    loss.backward()
    assert torch.equal(student.grad, 2 * expected)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


FUSED = {
    "kd_loss": lambda z, t, backend: kd_loss(
        z, [t], torch.arange(2, device=z.device), backend=backend
    ),
    "dist_loss": lambda z, t, backend: dist_loss(z, t, backend=backend),
}


@pytest.mark.parametrize("backend", ["cpp", "triton"])
@pytest.mark.parametrize("name", FUSED)
def test_a_second_derivative_is_refused(name, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    z, t = (torch.randn(2, 3, requires_grad=True, device=DEVICE[backend]) for _ in range(2))
    loss = FUSED[name](z, t, backend)
    with pytest.raises(RuntimeError, match=f"^{name} has no second derivative .*='reference'$"):
        torch.autograd.grad(loss, z, create_graph=True)


@pytest.mark.parametrize("name", FUSED)
def test_the_reference_has_a_second_derivative(name):
    z, t = (torch.randn(2, 3, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradgradcheck(
        lambda z: FUSED[name](z, t, "reference"), z.requires_grad_()
    )


def test_teachers_get_gradients_only_when_asked():
    x = inputs(Case())
    teachers = [t.requires_grad_() for t in x.teachers]
    student = x.student.requires_grad_()
    kd_loss(student, teachers, x.labels, backend="cpp", **x.arguments).backward()
    assert student.grad is not None and all(t.grad is None for t in teachers)
    x.arguments["teacher_grad"] = True
    kd_loss(x.student.detach(), teachers, x.labels, backend="cpp", **x.arguments).backward()
    assert all(t.grad is not None for t in teachers)


def test_fp16_gradients_survive_a_gradient_scaler():
    """Divided by the batch they are below fp16's smallest number; scaled first they are not."""
    scale = 2.0**16
    x = inputs(Case(rows=4096, classes=10, dtype=torch.float16, scale=0.01, ignored=0, teachers=1))
    upstream = torch.tensor(scale)
    ours = evaluate(x, "cpp", upstream).grads[0]
    assert ours.dtype == torch.float16
    assert_accurate(x, evaluate(x, "cpp", upstream), upstream=upstream)
    assert (ours != 0).float().mean() > 0.99


def test_autocast_leaves_the_loss_alone():
    x = inputs(Case(dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = evaluate(x, "cpp")
    assert ours.loss.dtype == torch.float32
    assert torch.equal(ours.loss, evaluate(x, "cpp").loss)


def test_dist_loss_keeps_its_graph_and_float16_its_digits():
    z, t = dist_cases.inputs(dist_cases.Case(rows=9, classes=5, dtype=torch.float16))
    z.requires_grad_()
    loss = dist_loss(z, t)
    one = torch.autograd.grad(loss, z, retain_graph=True)[0].float()
    scaled = torch.autograd.grad(loss * 65536, z)[0].float() / 65536  # finer below fp16's normals
    torch.testing.assert_close(scaled, one, rtol=1e-3, atol=1e-7)


def test_gradients_of_float16_wait_in_float32():
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    stored = [gradient_dtype(torch.empty(1, dtype=d)) for d in types]
    losses = [loss_dtype(torch.empty(1, dtype=d)) for d in types]
    assert stored == [torch.float32, torch.bfloat16, torch.float32, torch.float64]
    assert losses == [torch.float32] * 3 + [torch.float64]


def test_an_unused_loss_gives_no_gradient():
    """The other results of the operator are no losses: what is asked of them is nothing."""
    x = inputs(Case(teacher_grad=True))
    leaves = [t.requires_grad_() for t in (x.student, *x.teachers)]
    loss = kd_loss(leaves[0], leaves[1:], x.labels, backend="cpp", **x.arguments)
    grads = torch.autograd.grad(loss * 0, leaves)
    assert all((g == 0).all() and g.dtype == t.dtype for g, t in zip(grads, leaves, strict=True))


def test_the_factor_of_a_gradient_is_an_operator_on_the_cpu_too():
    x, factor = torch.ones(2, 3), torch.tensor(-2.0)
    results = torch.library.opcheck(torch.ops.edufast.scale_.default, (x.clone(), factor))
    assert set(results.values()) == {"SUCCESS"}
    torch.ops.edufast.scale_(x, factor)
    assert (x == -2).all()
    for wrong in ((x, factor[None]), (x, torch.ones(2, 1)), (x.long(), factor), (x, factor.half())):
        with pytest.raises((RuntimeError, TypeError), match="expected"):
            torch.ops.edufast.scale_(*wrong)


# --- on a GPU, where the upstream gradient is multiplied in place ---------------------------------


@on_gpu("scale_")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("classes", [7, 1001])  # elements that fill their 16 bytes, or do not
def test_gpu_upstream_gradient(classes, dtype, backend):
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("float64 is for checking, in C++ only")
    x = inputs(Case(classes=classes, dtype=dtype, teacher_grad=True), device="cuda")
    for upstream in map(torch.tensor, (1.0, 0.0, -3.0)):
        assert_accurate(x, evaluate(x, backend, upstream), upstream=upstream)


@on_gpu("scale_")
def test_gpu_a_kept_graph_gives_the_same_gradient_again():
    x = inputs(Case(), device="cuda")
    student = x.student.requires_grad_()
    loss = kd_loss(student, x.teachers, x.labels, backend="cuda", **x.arguments)
    expected = torch.autograd.grad(loss, student, retain_graph=True)[0]
    for factor in (2.0, 3.0):
        found = torch.autograd.grad(factor * loss, student, retain_graph=True)[0]
        assert torch.equal(found, factor * expected)
    found = torch.autograd.grad(4.0 * loss, student)[0]
    assert torch.equal(found, 4.0 * expected)


@on_gpu("scale_")
def test_gpu_the_operator_leaves_its_results_alone():
    """Who calls torch.ops.edufast.kd_loss holds the gradient, too."""
    x = inputs(Case(), device="cuda")
    p = kd_loss_arguments(x.student.requires_grad_(), x.teachers, x.labels, **x.arguments)
    loss, grad, _ = torch.ops.edufast.kd_loss(*p)
    before = grad.clone()
    (3 * loss).backward()
    assert torch.equal(grad, before)


@on_gpu("scale_")
def test_gpu_wrong_raw_arguments_of_scale():
    x, factor = torch.ones(2, 3, device="cuda"), torch.ones((), device="cuda")
    for wrong in ((x[0], factor), (x.t(), factor), (x, factor[None]), (x, factor.cpu()),
                  (x.long(), factor), (x, factor.half())):  # fmt: skip
        with pytest.raises(RuntimeError, match="expected"):
            torch.ops.edufast.scale_(*wrong)
    torch.ops.edufast.scale_(x[:0], factor)


def test_a_loss_is_one_operator_and_two_allocations():
    """Counts, which no busy machine changes."""
    z, t = (torch.randn(4, 5, requires_grad=r) for r in (True, False))
    with torch.profiler.profile() as profile:
        kd_loss(z, [t, t, t], torch.arange(4)).backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["edufast::kd_loss"] == 1
    assert calls["aten::new_empty"] == 2  # the loss and the gradient, which becomes z.grad
    assert not calls.keys() & {"aten::mul", "aten::copy_", "aten::clone", "aten::log_softmax"}
