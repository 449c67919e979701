"""kd_loss as an operator: opcheck, torch.compile, no fp64 in graphs, no recompilation."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from edufast.ops import ClassSlices, kd_loss, kd_loss_and_grad
from edufast.ops.kd_loss import kd_loss_arguments
from tests.ops.cases import Case, Inputs, evaluate, inputs


def operator_arguments(x: Inputs, requires_grad: bool = True) -> tuple:
    student = x.student.detach().requires_grad_(requires_grad)
    teachers = [t.detach().requires_grad_(requires_grad) for t in x.teachers]
    return tuple(kd_loss_arguments(student, teachers, x.labels, **x.arguments))


@pytest.mark.parametrize("teacher_grad", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad, teacher_grad):
    case = Case(teacher_grad=teacher_grad, slices="lists", weighting="given_rows")
    arguments = operator_arguments(inputs(case), requires_grad)
    results = torch.library.opcheck(torch.ops.edufast.kd_loss.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_operator_itself_is_differentiable(reduction):
    x = inputs(Case(reduction=reduction, teacher_grad=True))
    arguments = operator_arguments(x)
    loss, grad, teacher_grads = torch.ops.edufast.kd_loss(*arguments)
    grads = torch.autograd.grad(loss.sum(), [arguments[0], *arguments[1]])
    expected = evaluate(x, "cpp")
    assert not grad.requires_grad and len(teacher_grads) == 3
    for a, b in zip(grads, expected.grads, strict=True):
        assert torch.equal(a, b)


def test_compile_without_breaks_or_recompilation():
    """One graph for every batch size; in it one operator and, for fp32 logits, nothing in fp64."""
    counter = CompileCounterWithBackend("aot_eager")

    def step(student, teachers, labels):
        return kd_loss(student * 2, teachers, labels, alpha=0.25, temperature=3.3)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    for rows in (6, 9, 13):
        x = inputs(Case(rows=rows))
        losses, grads = [], []
        for f in (compiled, step):
            student = x.student.detach().requires_grad_()
            losses.append(f(student, x.teachers, x.labels))
            grads.append(torch.autograd.grad(losses[-1], student)[0])
        assert torch.equal(*losses) and torch.equal(*grads)
    graphs = [g.graph.nodes for g in counter.graphs]
    (nodes,) = [n for n in graphs if any(node.op == "call_function" for node in n)]
    assert sum("kd_loss" in str(node.target) for node in nodes) == 1
    for node in nodes:
        value = node.meta.get("example_value")
        for t in value if isinstance(value, (tuple, list)) else [value]:
            assert not isinstance(t, torch.Tensor) or t.dtype != torch.float64


def test_compiled_backward_with_every_kind_of_slice():
    torch._dynamo.reset()
    for slices in ("disjoint", "lists"):
        x = inputs(Case(slices=slices, weighting="routed", teacher_grad=True))
        expected = evaluate(x, "cpp")
        compiled = torch.compile(kd_loss, backend="aot_eager", fullgraph=True)
        leaves = [t.detach().requires_grad_() for t in (x.student, *x.teachers)]
        prepared = dict(x.arguments)
        if slices == "lists":
            prepared["slices"] = ClassSlices.of(prepared["slices"], 23)
        loss = compiled(leaves[0], leaves[1:], x.labels, **prepared)
        for a, b in zip(torch.autograd.grad(loss, leaves), expected.grads, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_classes_in_a_tensor_come_into_the_graph_as_they_are(backend):
    """Nobody can look at them while it is traced: the operator does, each time it runs."""

    def step(student, teacher, classes):
        return kd_loss(student, [teacher], None, slices=[classes], alpha=0, backend=backend)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    student, teacher = torch.randn(3, 5), torch.randn(3, 2)
    for classes in (torch.tensor([1, 4]), torch.tensor([3, 0])):
        assert torch.equal(compiled(student, teacher, classes), step(student, teacher, classes))
    if backend == "cpp":
        with pytest.raises(RuntimeError, match=r"columns\[0\] names class 5; expected 0 to 4"):
            compiled(student, teacher, torch.tensor([1, 5]))


@pytest.mark.parametrize("grad_mode", [True, False])
@pytest.mark.parametrize("backend", ["cpp", "reference", "triton"])
def test_loss_and_gradient_compile_into_one_graph(backend, grad_mode):
    """As in a training loop: the logits come from within the graph, and require a gradient."""
    if backend == "triton":
        pytest.importorskip("triton")
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    x = inputs(Case(weighting="entropy", slices="disjoint"), device)
    weight = torch.ones(23, requires_grad=True, device=device)

    def step(student, teachers, labels):
        return kd_loss_and_grad(student * weight, teachers, labels, backend=backend, **x.arguments)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(grad_mode):
        for ours, expected in zip(
            compiled(x.student, x.teachers, x.labels),
            step(x.student, x.teachers, x.labels),
            strict=True,
        ):
            assert torch.equal(ours, expected) and not ours.requires_grad
