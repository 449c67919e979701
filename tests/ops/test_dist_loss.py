"""dist_loss: the cpp backend against the fp64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from edufast.ops import dist_loss
from tests.ops.dist_cases import DTYPES, Case, assert_accurate, evaluate, inputs


# Around vector widths, the 32 rows and 1,024 columns that are summed together.
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 100, 1000, 1024, 1025, 5000])
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 130])
def test_shapes(rows, classes):
    case = Case(rows=rows, classes=classes)
    assert_accurate(case, "cpp")


@pytest.mark.parametrize("teacher_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, teacher_dtype):
    assert_accurate(Case(dtype=dtype, teacher_dtype=teacher_dtype, rows=40, classes=37), "cpp")


def test_131072_classes():
    assert_accurate(Case(rows=3, classes=131072, dtype=torch.bfloat16), "cpp")


cases = st.builds(
    Case,
    rows=st.integers(1, 70),
    classes=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES),
    teacher_dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([0.5, 1.0, 3.0, 10.0]),
    beta=st.sampled_from([0.0, 1.0, 2.5]),
    gamma=st.sampled_from([0.0, 1.0, 0.5]),
    scale=st.sampled_from([0.5, 3.0, 10.0]),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases)
def test_any_case(case):
    assert_accurate(case, "cpp")


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_gradcheck(backend):
    z, t = inputs(Case(rows=5, classes=7, dtype=torch.float64, scale=1.0))
    t.requires_grad_()  # a constant nevertheless

    def loss(z: Tensor) -> Tensor:
        return dist_loss(z, t, temperature=2.0, beta=1.5, gamma=0.5, backend=backend)

    assert torch.autograd.gradcheck(loss, z.requires_grad_())
    loss(z).backward()
    assert t.grad is None


def test_a_student_like_its_teacher_has_nothing_to_learn():
    z, _ = inputs(Case(rows=40, classes=30))
    loss, grad = evaluate(z, z, "cpp", Case())
    assert abs(loss.item()) < 1e-5 and grad.abs().max() < 1e-6


class Conventions:
    """Of every backend; test_dist_loss_cuda.py has its own."""

    def test_constant_rows_and_columns_have_no_correlation_and_no_gradient(self, backend):
        z, t = inputs(Case(rows=40, classes=9))
        flat = torch.full_like(z, 0.1)  # both rows and columns of its softmax are constant
        for student, teacher in ((flat, t), (z, flat)):
            loss, grad = evaluate(student, teacher, backend, Case())
            assert loss.item() == 2.0
            assert not grad.any()
        same_rows = z[:1].expand(40, 9)  # only the columns are
        loss, _ = evaluate(same_rows, t, backend, Case(beta=0.0))
        assert loss.item() == 1.0

    def test_masked_classes(self, backend):
        """Probability 0, no gradient, and the rest as ever."""
        z, t = inputs(Case(rows=20, classes=1100, dtype=torch.float64))
        z[:, 3] = -math.inf
        t[5, 1030:] = -math.inf
        loss, grad = evaluate(z, t, backend, Case())
        finite = [x.masked_fill(x.isneginf(), -1e4) for x in (z, t)]
        expected, expected_grad = evaluate(*finite, "reference", Case())
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(grad, expected_grad)
        assert not grad[:, 3].any()

    def test_a_row_without_classes_counts_as_zeros(self, backend):
        z, t = inputs(Case(rows=6, classes=5, dtype=torch.float64))
        p, q = torch.softmax(z, 1), torch.softmax(t, 1)
        p[2], q[4] = 0, 0
        expected = 0.0
        for a, b in ((p, q), (p.T, q.T)):
            a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
            expected += (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean().item()
        z[2], t[4] = -math.inf, -math.inf
        loss, grad = evaluate(z, t, backend, Case())
        assert loss.item() == pytest.approx(expected, rel=1e-12)
        assert torch.isfinite(grad).all() and not grad[2].any() and grad[4].any()

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("classes", [7, 1100])
    def test_nan(self, backend, side, bad, classes):
        pair = inputs(Case(rows=40, classes=classes))
        pair[side][17, classes - 2] = bad
        loss, _ = evaluate(*pair, backend, Case())
        assert math.isnan(loss.item())

    @pytest.mark.parametrize("shape", [(4, 3), (1, 3), (3, 1)])
    @pytest.mark.parametrize("side", [0, 1])
    def test_nan_beside_a_flat_side(self, backend, side, shape):
        pair = [torch.zeros(shape), torch.zeros(shape)]
        pair[side][:, 0] = math.nan
        loss, _ = evaluate(*pair, backend, Case())
        assert math.isnan(loss.item())

    def test_two_classes_that_hardly_differ(self, backend):
        """Their correlation is 1, but for the epsilon in it: the gradient is what is left."""
        z, t = torch.tensor([[0.001, 0.0]]), torch.tensor([[3.0, 0.0]])
        _, grad = evaluate(z, t, backend, Case(gamma=0.0))
        exact = torch.tensor([[-0.0441877, 0.0441877]])
        torch.testing.assert_close(grad.cpu(), exact, rtol=1e-2, atol=0)

    @pytest.mark.parametrize("classes", [4, 1100])
    def test_no_rows(self, backend, classes):
        none = torch.empty(0, classes)
        loss, grad = evaluate(none, none, backend, Case())
        assert loss.item() == 0 and grad.shape == (0, classes)

    def test_any_strides(self, backend):
        z, t = inputs(Case(rows=40, classes=30))
        expected = evaluate(z, t, backend, Case())
        wide = torch.zeros(40, 67)[:, 5:65:2].copy_(z)
        loss, grad = evaluate(wide, t.T.contiguous().T, backend, Case())
        torch.testing.assert_close((loss, grad), expected)

    def test_large_logits(self, backend):
        z, t = inputs(Case(rows=40, classes=30, scale=1e4))
        loss, grad = evaluate(z, t, backend, Case())
        assert torch.isfinite(loss) and torch.isfinite(grad).all()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
class TestConventions(Conventions):
    pass


@pytest.mark.parametrize(("rows", "classes"), [(257, 1000), (40, 2500)])
def test_deterministic_for_any_number_of_threads(rows, classes):
    case = Case(rows=rows, classes=classes)
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            outcomes.append(evaluate(*inputs(case), "cpp", case))
    finally:
        torch.set_num_threads(before)
    for loss, grad in outcomes[1:]:
        assert torch.equal(loss, outcomes[0][0]) and torch.equal(grad, outcomes[0][1])


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad):
    z, t = inputs(Case(rows=6, classes=5))
    arguments = (z.requires_grad_(requires_grad), t, 2.0, 1.0, 0.5)
    results = torch.library.opcheck(torch.ops.edufast.dist_loss.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


def test_compile_without_breaks_or_recompilation():
    counter = CompileCounterWithBackend("aot_eager")

    def step(z: Tensor, t: Tensor) -> Tensor:
        return dist_loss(z * 2, t, temperature=3.3)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    for rows in (6, 9, 13):
        z, t = inputs(Case(rows=rows))
        z.requires_grad_()
        losses = [f(z, t) for f in (compiled, step)]
        grads = [torch.autograd.grad(loss, z)[0] for loss in losses]
        assert torch.equal(*losses) and torch.equal(*grads)
    graphs = [list(g.graph.nodes) for g in counter.graphs]
    assert sum(any("dist_loss" in str(node.target) for node in nodes) for nodes in graphs) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student": torch.zeros(3)}, ValueError, r"student has shape \(3,\); expected \(B, C\)"),
        (
            {"teacher": torch.zeros(4, 6)},
            ValueError,
            r"teacher has shape \(4, 6\); expected \(4, 5",
        ),
        ({"teacher": torch.zeros(4, 5).long()}, TypeError, "teacher has dtype torch.int64"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0; expected a number from 1e-18 to"),
        ({"temperature": math.nan}, ValueError, "temperature is nan"),
        ({"beta": -1.0}, ValueError, "beta is -1.0; expected a number from 0 to 1e18"),
        ({"gamma": math.inf}, ValueError, "gamma is inf"),
        ({"backend": "tpu"}, ValueError, "backend is 'tpu'"),
        ({"backend": "cuda"}, ValueError, "backend 'cuda' runs on cuda; the tensors are on cpu"),
    ],
)
def test_errors(change, error, message):
    arguments = {"student": torch.zeros(4, 5), "teacher": torch.zeros(4, 5)} | change
    with pytest.raises(error, match=message):
        dist_loss(arguments.pop("student"), arguments.pop("teacher"), **arguments)
