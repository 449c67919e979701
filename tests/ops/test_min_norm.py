"""min_norm_weights: the Gram matrix against fp64, the weights against proofs of optimality."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from edufast.ops import kd_loss, min_norm_weights
from edufast.ops.reference.min_norm import reference_gram
from tests.ops.gram_cases import (
    Case,
    assert_accurate_gram,
    assert_optimal,
    gram_of,
    inputs,
    problem,
    solve,
    weights_of,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SLICES = ("all", "disjoint", "overlapping", "lists")
# --- the Gram matrix --------------------------------------------------------------------------


# Around vector widths and the 1,024 columns that are in the cache together.
@pytest.mark.parametrize("classes", [3, 15, 16, 17, 1000, 1024, 1025, 5000])
@pytest.mark.parametrize("slices", SLICES)
def test_gram_shapes(slices, classes):
    assert_accurate_gram(
        Case(rows=5, classes=classes, slices=slices, temperature=(4.0, 1.0, 2.0)), "cpp"
    )


temperatures = st.sampled_from([0.5, 1.0, 4.0, 20.0])
cases = st.builds(
    Case,
    rows=st.integers(1, 40),
    classes=st.integers(3, 70),
    teachers=st.just(3),
    slices=st.sampled_from(SLICES),
    dtype=st.sampled_from(DTYPES),
    teacher_dtypes=st.lists(st.sampled_from(DTYPES), max_size=3).map(tuple),
    temperature=temperatures | st.tuples(temperatures, temperatures, temperatures),
    scale=st.sampled_from([0.5, 3.0, 10.0]),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases)
def test_gram_of_any_case(case):
    assert_accurate_gram(case, "cpp")


def test_gram_is_the_same_for_any_number_of_threads():
    z, teachers, arguments = inputs(Case(rows=257, classes=1000, teachers=4))
    before = torch.get_num_threads()
    grams = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            grams.append(torch.ops.edufast.gradient_gram(*problem(z, teachers, **arguments)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(g, grams[0]) for g in grams)


# --- the quadratic program --------------------------------------------------------------------


def vectors(seed: int, k: int) -> Tensor:
    """Gradients: scales apart, nearly parallel, more of them than dimensions."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(k, 1 + seed * 7 % 50, generator=generator, dtype=torch.float64)
    scales = torch.randn(k, 1, generator=generator, dtype=torch.float64)
    shared = torch.randn(random.shape[1], generator=generator, dtype=torch.float64)
    return random * torch.exp(scales * (0, 1, 4)[seed % 3]) + shared * (0, 1, 10)[seed // 3 % 3]


def caps(seed: int, k: int) -> float:
    """None, or from hardly above 1 / K to 1."""
    return 1.0 if seed % 2 else 1 / k + (1 - 1 / k) * (1e-4, 0.01, 0.1, 0.5)[seed // 2 % 4]


class QuadraticProgram:
    """Of every backend; test_min_norm_cuda.py has its own."""

    @pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 17, 32])
    def test_weights_are_optimal(self, backend, k):
        for seed in range(36 if backend == "cpp" or k < 8 else 12):
            g = vectors(seed, k)
            cap = caps(seed, k) if k > 1 else 1.0
            assert_optimal(g @ g.T, solve(g @ g.T, cap, backend), cap, 1e-6)

    def test_weights_are_the_minimiser_found_by_enumeration(self, backend):
        """Every pattern of weights at 0, at the cap and between; the best that is feasible."""
        for seed in range(12):
            k, cap = 4, (0.4, 1.0)[seed % 2]
            g = torch.randn(
                k, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            gram, best, least = g @ g.T + 3, torch.zeros(k), math.inf
            for pattern in itertools.product((0.0, cap, None), repeat=k):
                free = [i for i in range(k) if pattern[i] is None]
                w = torch.tensor([p or 0.0 for p in pattern], dtype=torch.float64)
                n = len(free)
                system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
                system[:n, :n] = gram[free][:, free]
                system[:n, n] = system[n, :n] = 1
                right = torch.cat([-(gram @ w)[free], (1 - w.sum())[None]])
                if n:
                    w[free] = torch.linalg.solve(system, right)[:n]
                feasible = w.min() > -1e-12 and w.max() < cap + 1e-12 and abs(w.sum() - 1) < 1e-12
                if feasible and w @ gram @ w < least:
                    best, least = w, (w @ gram @ w).item()
            ours = solve(gram, cap, backend)
            torch.testing.assert_close(ours.double(), best, rtol=0, atol=1e-6)

    def test_weights_where_the_minimiser_is_not_unique(self, backend):
        third = torch.full((3,), 1 / 3)
        torch.testing.assert_close(
            solve(torch.zeros(3, 3, dtype=torch.float64), 1.0, backend), third
        )
        torch.testing.assert_close(
            solve(torch.ones(3, 3, dtype=torch.float64), 1.0, backend), third
        )
        g = torch.tensor(
            [[1.0, 1], [1, 1], [-1, 1]], dtype=torch.float64
        )  # the first two are equal
        torch.testing.assert_close(solve(g @ g.T, 1.0, backend), torch.tensor([0.25, 0.25, 0.5]))

    def test_weights_do_not_depend_on_the_scale_or_the_order(self, backend):
        g = vectors(4, 6)
        gram = g @ g.T
        expected = solve(gram, 0.5, backend)
        for factor in (1e-30, 1e30):
            torch.testing.assert_close(solve(gram * factor, 0.5, backend), expected)
        flipped = solve(gram.flip(0, 1).contiguous(), 0.5, backend).flip(0)
        torch.testing.assert_close(flipped, expected, rtol=0, atol=1e-6)

    def test_a_scale_whose_inverse_overflows(self, backend):
        for factor in (5e-324, 1e-310):
            eye = torch.eye(2, dtype=torch.float64) * factor
            assert solve(eye, 1.0, backend).tolist() == [0.5, 0.5]

    def test_a_matrix_that_rounding_made_indefinite_gives_finite_weights(self, backend):
        """As of teachers that hardly differ, whose gradients are multiplied in float32."""
        for k in (2, 3, 8):
            for error in (1e-11, 1e-9, 1e-7):
                gram = torch.ones(k, k, dtype=torch.float64) - error * torch.eye(k)
                for cap in (0.6, 1.0):
                    weights = solve(gram, cap, backend)
                    assert weights.isfinite().all()
                    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
class TestQuadraticProgram(QuadraticProgram):
    pass


# --- the public function ----------------------------------------------------------------------


class MinNormWeights:
    """Of every backend; test_min_norm_cuda.py has its own."""

    @pytest.mark.parametrize("slices", SLICES)
    @pytest.mark.parametrize("cap", [None, 0.4])
    def test_end_to_end(self, backend, cap, slices):
        z, teachers, arguments = inputs(Case(rows=20, slices=slices, dtype=torch.bfloat16))
        exact = reference_gram(problem(z.double(), [t.double() for t in teachers], **arguments))
        z.requires_grad_()
        weights = weights_of(z, teachers, backend, cap, **arguments)
        assert not weights.requires_grad
        assert_optimal(exact, weights, cap or 1.0, 1e-6)
        labels = torch.zeros(20, dtype=torch.long)
        assert kd_loss(z, teachers, labels, weighting=weights, **arguments).isfinite()

    def test_the_combined_gradient_descends_on_every_teachers_loss(self, backend):
        z, teachers, arguments = inputs(Case(rows=4, classes=5, teachers=6, scale=1.0))
        gram = reference_gram(problem(z, teachers, **arguments))
        weights = weights_of(z, teachers, backend, **arguments).double()
        slopes = gram @ weights
        assert slopes.min() > (weights @ slopes) * (1 - 1e-4) > 0

    def test_a_lone_teacher_and_a_teacher_the_student_has_reached(self, backend):
        z, teachers, _ = inputs(Case())
        assert weights_of(z, teachers[:1], backend).tolist() == [1.0]
        assert weights_of(z, [teachers[0], z], backend).tolist() == [0.0, 1.0]

    @pytest.mark.parametrize("classes", [23, 2100])
    def test_no_rows(self, backend, classes):
        z, teachers, _ = inputs(Case(rows=0, classes=classes))
        weights = weights_of(z, teachers, backend)
        torch.testing.assert_close(weights, torch.full((3,), 1 / 3))

    @pytest.mark.parametrize("classes", [23, 1100])
    @pytest.mark.parametrize("slices", ["all", "lists"])
    def test_masked_classes_and_rows(self, backend, slices, classes):
        """Probability 0; no gradient in a row that is -inf throughout the slice, on either side."""
        z, teachers, arguments = inputs(Case(slices=slices, dtype=torch.float64, classes=classes))
        teachers[0][2, 1] = -math.inf
        z[4] = -math.inf
        teachers[0][3] = -math.inf
        finite = [t.masked_fill(t.isneginf(), -1e4) for t in teachers]
        finite_z = z.masked_fill(z.isneginf(), 0)
        expected = 0
        for r in (0, 1, 2, 3, 5):
            one = reference_gram(problem(finite_z[[r]], [t[[r]] for t in finite], **arguments))
            if r == 3:
                one[0] = one[:, 0] = 0
            expected = expected + one
        p = problem(z, teachers, **arguments)
        gram = gram_of(p, backend)
        torch.testing.assert_close(gram, expected)
        assert_optimal(expected, weights_of(z, teachers, backend, **arguments), 1, 1e-6)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("cap", [None, 0.6])
    def test_nan(self, backend, cap, bad):
        for side in range(4):
            z, teachers, _ = inputs(Case())
            (z, *teachers)[side][3, 5] = bad
            assert weights_of(z, teachers, backend, cap).isnan().all()

    def test_any_strides(self, backend):
        z, teachers, _ = inputs(Case())
        expected = weights_of(z, teachers, backend)
        wide = torch.zeros(6, 61)[:, 5:51:2].copy_(z)
        weights = weights_of(wide, [t.T.contiguous().T for t in teachers], backend)
        torch.testing.assert_close(weights, expected)

    def test_teachers_that_hardly_differ(self, backend):
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            z, t = (torch.randn(64, 10, generator=generator) for _ in range(2))
            for teachers in ([t, t + 1], [t, t + 1e-7 * z, t - 1e-7 * z]):
                weights = weights_of(z, teachers, backend)
                assert weights.isfinite().all()
                assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
class TestMinNormWeights(MinNormWeights):
    def test_a_cap_of_one_over_k_is_the_mean(self, backend):
        z, teachers, _ = inputs(Case())
        weights = min_norm_weights(z, teachers, cap=1 / 3, backend=backend)
        assert torch.equal(weights, torch.full((3,), 1 / 3))


def test_opcheck():
    z, teachers, arguments = inputs(Case(slices="lists"))
    p = problem(z.requires_grad_(), teachers, **arguments)
    gram = torch.ops.edufast.gradient_gram.default
    weights = torch.ops.edufast.min_norm_weights.default
    for operator, operands in ((gram, tuple(p)), (weights, (gram(*p).detach(), 0.5))):
        assert set(torch.library.opcheck(operator, operands).values()) == {"SUCCESS"}


def test_compile_without_breaks_or_recompilation():
    counter = CompileCounterWithBackend("aot_eager")

    def step(z: Tensor, teachers: list[Tensor]) -> Tensor:
        return min_norm_weights(z * 2, teachers, temperature=3.3)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    for rows in (6, 9, 13):
        z, teachers, _ = inputs(Case(rows=rows))
        assert torch.equal(compiled(z, teachers), step(z, teachers))
    assert counter.frame_count == 1


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student": zeros(3)}, ValueError, r"student has shape \(3,\); expected \(B, C\)"),
        ({"teachers": []}, ValueError, "teachers has 0 tensors; expected 1 to 32"),
        ({"teachers": [zeros(4, 5)] * 33}, ValueError, "teachers has 33 tensors; expected 1 to 32"),
        ({"teachers": [zeros(3, 5)]}, ValueError, r"teachers\[0\] has shape \(3, 5\)"),
        ({"teachers": [zeros(4, 5).long()]}, TypeError, r"teachers\[0\] has dtype torch.int64"),
        ({"teachers": [zeros(4, 2)]}, ValueError, r"teachers have \(2,\) classes, but slices"),
        ({"slices": [(0, 6), (0, 5)]}, ValueError, r"slices\[0\] is \(0, 6\)"),
        ({"temperature": 0}, ValueError, "temperature is 0; expected one number from 1e-18 to"),
        ({"temperature": [1.0]}, ValueError, r"temperature is \[1.0\]; .* or 2 of them"),
        ({"cap": 0.4}, ValueError, "cap is 0.4; expected a number from 1/K = 0.5 to 1"),
        ({"cap": 1.5}, ValueError, "cap is 1.5"),
        ({"cap": math.nan}, ValueError, "cap is nan"),
        ({"backend": "tpu"}, ValueError, "backend is 'tpu'"),
        ({"backend": "cuda"}, ValueError, "backend 'cuda' runs on cuda; the tensors are on cpu"),
    ],
)
def test_errors(change, error, message):
    arguments = {"student": zeros(4, 5), "teachers": [zeros(4, 5), zeros(4, 5)]} | change
    with pytest.raises(error, match=message):
        min_norm_weights(arguments.pop("student"), arguments.pop("teachers"), **arguments)


def test_a_class_out_of_range_that_only_the_kernel_can_see():
    z, teachers, _ = inputs(Case(teachers=1, classes=3))
    with pytest.raises(RuntimeError, match=r"columns\[0\] names class 7; expected 0 to 2"):
        torch.ops.edufast.gradient_gram(z, teachers, [torch.tensor([0, 1, 7])], [0], [1.0])
