"""kd_loss: the cpp backend against the fp64 reference, over everything the operator combines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edufast.ops import kd_loss, kd_loss_and_grad
from tests.ops.cases import (
    DIVERGENCES,
    DTYPES,
    SLICES,
    WEIGHTINGS,
    Case,
    assert_accurate,
    evaluate,
    inputs,
    truth,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_combination(divergence, weighting, slices, dtype):
    case = Case(divergence=divergence, weighting=weighting, slices=slices, dtype=dtype)
    x = inputs(case.but(label_smoothing=0.125, teacher_grad=True))
    assert_accurate(x, evaluate(x, "cpp"))


# Around vector widths, the block of 1,024 and the limit above which a row is taken in blocks.
@pytest.mark.parametrize("classes", [2, 15, 16, 17, 255, 1000, 1024, 1025, 9000, 21841, 131072])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_class_counts(divergence, classes):
    case = Case(rows=2, classes=classes, teachers=2, ignored=0, divergence=divergence)
    for slices in ("all", "overlapping", "lists"):
        x = inputs(case.but(slices=slices, teacher_grad=True, weighting="entropy"))
        assert_accurate(x, evaluate(x, "cpp"))


def test_262144_classes():
    x = inputs(Case(rows=2, classes=262144, teachers=1, ignored=0, dtype=torch.bfloat16))
    assert_accurate(x, evaluate(x, "cpp"))


temperatures = st.sampled_from([0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 20.0])
case_strategy = st.builds(
    Case,
    rows=st.integers(1, 5),
    classes=st.integers(2, 70),
    teachers=st.just(3),
    slices=st.sampled_from(SLICES),
    dtype=st.sampled_from(DTYPES),
    teacher_dtypes=st.lists(st.sampled_from(DTYPES), max_size=3).map(tuple),
    divergence=st.sampled_from(DIVERGENCES),
    weighting=st.sampled_from(WEIGHTINGS),
    temperature=temperatures | st.tuples(temperatures, temperatures, temperatures),
    alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    label_smoothing=st.sampled_from([0.0, 0.125]),
    ignored=st.integers(0, 1),
    reduction=st.sampled_from(["none", "mean", "sum"]),
    teacher_grad=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case_strategy)
def test_any_case(case):
    x = inputs(case)
    assert_accurate(x, evaluate(x, "cpp"))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case_strategy, st.floats(-1000, 1000))
def test_a_constant_on_a_row_changes_nothing(case, constant):
    """Softmax is blind to it; and a gradient along it is therefore zero."""
    x = inputs(case.but(dtype=torch.float64, teacher_dtypes=(torch.float64,)))
    before = evaluate(x, "cpp")
    x.student = x.student + constant
    x.teachers = [t - constant for t in x.teachers]
    torch.testing.assert_close(evaluate(x, "cpp").loss, before.loss, rtol=1e-8, atol=1e-8)
    for grad in before.grads:
        torch.testing.assert_close(grad.sum(1), torch.zeros_like(grad[:, 0]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_equal_to_its_teachers_has_nothing_to_learn(divergence):
    x = inputs(Case(divergence=divergence, alpha=0.0, ignored=0))
    x.teachers = [x.student] * 3
    ours = evaluate(x, "cpp")
    assert abs(ours.loss.item()) < 1e-5
    assert ours.grads[0].abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_kd_loss_and_grad_is_kd_loss(dtype, reduction):
    x = inputs(Case(dtype=dtype, reduction=reduction))
    expected = evaluate(x, "cpp")
    for backend in ("cpp", "reference"):
        loss, grad = kd_loss_and_grad(
            x.student.requires_grad_(), x.teachers, x.labels, backend=backend, **x.arguments
        )
        assert not loss.requires_grad and not grad.requires_grad
        torch.testing.assert_close(loss, expected.loss)
        torch.testing.assert_close(grad.to(dtype), expected.grads[0])


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("slices", ["overlapping", "lists"])
def test_gradcheck(divergence, slices):
    """Against differences of the kernel's own loss; weights are constants, so given ones."""
    case = Case(rows=3, classes=7, dtype=torch.float64, divergence=divergence, slices=slices)
    x = inputs(case.but(weighting="given_rows", teacher_grad=True, label_smoothing=0.25, scale=1.0))

    def loss(student, *teachers):
        return kd_loss(student, teachers, x.labels, backend="cpp", **x.arguments)

    leaves = [t.requires_grad_() for t in (x.student, *x.teachers)]
    assert torch.autograd.gradcheck(loss, leaves)


def test_fp64_matches_the_reference_to_rounding():
    x = inputs(Case(dtype=torch.float64, slices="lists", weighting="confidence"))
    torch.testing.assert_close(evaluate(x, "cpp").loss, truth(x).loss, rtol=1e-13, atol=0)


def test_deterministic_for_any_number_of_threads():
    x = inputs(Case(rows=257, classes=1000, weighting="confidence", divergence="js"))
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            outcomes.append(evaluate(x, "cpp"))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert torch.equal(other.loss, outcomes[0].loss)
        assert torch.equal(other.grads[0], outcomes[0].grads[0])
