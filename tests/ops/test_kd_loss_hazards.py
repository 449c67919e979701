"""kd_loss: what goes wrong in fused losses, each hazard a test."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edufast.ops import kd_loss
from tests.ops.cases import (
    DIVERGENCES,
    DTYPES,
    SLICES,
    WEIGHTINGS,
    Case,
    Inputs,
    assert_accurate,
    evaluate,
    far_apart,
    inputs,
    masked_by_the_smallest,
    truth,
)


def assert_same_values(x: Inputs) -> None:
    """Equal to the reference where the result is exact, infinities and NaN included."""
    ours, expected = evaluate(x, "cpp"), evaluate(x, "reference")
    torch.testing.assert_close(ours.loss, expected.loss, equal_nan=True, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.grads, expected.grads, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-4, atol=1e-5)


# --- memory layout ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_offsets_and_misaligned_views(dtype):
    case = Case(rows=5, classes=37, dtype=dtype, slices="overlapping", teacher_grad=True)
    x = inputs(case)
    expected = evaluate(x, "cpp")
    x.student = x.student.t().contiguous().t()  # columns lie together
    first, second, third = x.teachers
    wide = torch.zeros(10, 2 * second.shape[1] + 1, dtype=dtype)
    wide[1::2, 1::2] = second
    x.teachers = [
        torch.cat([torch.zeros(1, dtype=dtype), first.flatten()])[1:].view_as(first),  # odd address
        wide[1::2, 1::2],  # every second element of every second row
        third.flip(0).flip(1).flip(0).flip(1),
    ]
    x.labels = torch.stack([x.labels, x.labels], 1)[:, 1]  # stride 2
    ours = evaluate(x, "cpp")
    assert torch.equal(ours.loss, expected.loss)
    for a, b in zip(ours.grads, expected.grads, strict=True):
        assert torch.equal(a, b)


def test_expanded_inputs():
    x = inputs(Case())
    x.student = x.student[1].expand(6, -1)
    x.teachers = [t[1].expand(6, -1) for t in x.teachers]
    x.arguments["weighting"] = torch.tensor(0.5).expand(6, 3)
    assert_accurate(x, evaluate(x, "cpp"))


def test_offsets_beyond_two_to_the_31_elements():
    """A view into untouched virtual memory: its last element is number 2^31 + 7 * 2^28."""
    stride, rows, classes = 2**28, 16, 10
    storage = torch.empty(stride * (rows - 1) + classes, dtype=torch.bfloat16)
    x = inputs(Case(rows=rows, classes=classes, teachers=2, dtype=torch.bfloat16))
    far = storage.as_strided((rows, classes), (stride, 1))
    far.copy_(x.student)
    expected = evaluate(x, "cpp")
    x.student, x.teachers[1] = far, x.teachers[1].clone()
    ours = evaluate(x, "cpp")
    assert torch.equal(ours.loss, expected.loss)
    assert torch.equal(ours.grads[0], expected.grads[0])


def test_every_gradient_element_is_written():
    """Allocations of a size just freed come back with their old contents, here NaN."""
    x = inputs(Case(rows=64, ignored=32, slices="disjoint", weighting="routed", teacher_grad=True))
    for t in (x.student, *x.teachers):
        del t
    garbage = [torch.full_like(t, math.nan) for t in (x.student, *x.teachers) for _ in range(8)]
    del garbage
    for grad in evaluate(x, "cpp").grads:
        assert torch.isfinite(grad).all()
        assert (grad[:32] == 0).all()


def test_mixed_teacher_dtypes():
    types = (torch.bfloat16, torch.float16, torch.float64, torch.float32)
    x = inputs(Case(teachers=4, teacher_dtypes=types, teacher_grad=True))
    ours = evaluate(x, "cpp")
    assert [g.dtype for g in ours.grads[1:]] == list(types)
    exact = evaluate(x.to(torch.float64), "reference")
    for a, b in zip(ours.grads, exact.grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("isa", ["baseline", "x86-64-v3"])
def test_every_instruction_set(isa):
    """The loops that this processor would not choose, in a process of their own."""
    if platform.machine() != "x86_64" and isa != "baseline":
        pytest.skip("x86-64 only")
    code = (
        "from tests.ops.cases import *\n"
        "for divergence in DIVERGENCES:\n"
        "    for classes in (23, 1000, 50000):\n"
        "        for dtype in DTYPES:\n"
        "            case = Case(rows=3, classes=classes, divergence=divergence, dtype=dtype)\n"
        "            x = inputs(case.but(weighting='entropy', teacher_grad=True))\n"
        "            assert_accurate(x, evaluate(x, 'cpp'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EDUFAST_CPU_ISA": isa, "OMP_NUM_THREADS": "2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- extreme logits -----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_large_logits(divergence, scale):
    """DKD's log(1 - p_y) and JS's log of an underflown mixture are the classical NaN."""
    for temperature in (1.0, 4.0):
        case = Case(divergence=divergence, scale=scale, temperature=temperature)
        x = inputs(case.but(weighting="confidence", teacher_grad=True))
        ours = evaluate(x, "cpp")
        assert torch.isfinite(ours.loss)
        assert_accurate(x, ours)


def test_a_large_common_offset_costs_no_digits():
    x = inputs(Case(dtype=torch.float32))
    x.student = (x.student * 8).round() / 8  # exact after the offset, too
    expected = evaluate(x, "cpp")
    x.student = x.student + 2.0**20
    torch.testing.assert_close(evaluate(x, "cpp").loss, expected.loss, rtol=1e-6, atol=0)


MASKS = {
    "teacher": ([], [0, 3]),
    "student": ([0, 3], []),
    "both": ([0, 3], [0, 3]),
    "student less": ([3], [0, 3]),
    "whole teacher row": ([], range(23)),
    "whole student row": (range(23), []),
    "all but one": (range(22), range(22)),
    "label": ([1], [1]),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("weighting", ["mean", "entropy", "confidence"])
def test_masked_logits(weighting, divergence, mask):
    student_mask, teacher_mask = MASKS[mask]
    x = inputs(Case(divergence=divergence, weighting=weighting, alpha=0.0, reduction="none"))
    x.labels[2] = 1
    for t, masked in ((x.student, student_mask), (x.teachers[0], teacher_mask)):
        t[1:4, list(masked)] = -math.inf
    ours, expected = evaluate(x, "cpp"), evaluate(x, "reference")
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-5, atol=1e-5)
    finite = torch.isfinite(expected.loss)  # elsewhere no gradient exists
    assert not torch.isnan(ours.loss).any()
    torch.testing.assert_close(
        ours.grads[0][finite], expected.grads[0][finite], rtol=1e-4, atol=1e-5
    )


def test_a_masked_block_of_a_long_row():
    """The running maximum starts at -inf for a whole block of 1,024."""
    x = inputs(Case(rows=2, classes=50000, teachers=2, ignored=0, weighting="entropy"))
    for t in (x.student, *x.teachers):
        t[:, :5000] = -math.inf
        t[:, 20000:30000] = -math.inf
    x.labels.fill_(7000)
    assert_accurate(x, evaluate(x, "cpp"))


def test_mass_that_underflows_against_a_mask_is_infinite():
    for divergence in ("forward_kl", "reverse_kl"):
        x = inputs(Case(divergence=divergence, alpha=0.0, temperature=1.0, ignored=0))
        masked = x.student if divergence == "forward_kl" else x.teachers[0]
        other = x.teachers[0] if divergence == "forward_kl" else x.student
        masked[2, 5] = -math.inf
        other[2, 5] = -500.0
        assert evaluate(x, "cpp").loss == math.inf
        assert evaluate(x, "reference").loss == math.inf


@pytest.mark.parametrize(
    ("weighting", "hardly_counts", "counts"),
    [
        ("entropy", [-math.inf, 0.0, 0.0, 0.0], [0.0, 40.0, 0.0, 0.0]),
        ("confidence", [-math.inf, 25.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_a_weight_that_float32_rounds_to_zero_still_counts(weighting, hardly_counts, counts):
    """A masked class makes reverse KL infinite, whatever the teacher weighs."""

    def loss(dtype: torch.dtype, backend: str) -> float:
        teachers = [torch.tensor([t], dtype=dtype) for t in (hardly_counts, counts)]
        return kd_loss(
            torch.zeros(1, 4, dtype=dtype),
            teachers,
            torch.tensor([2]),
            weighting=weighting,
            divergence="reverse_kl",
            alpha=0.0,
            backend=backend,
        ).item()

    assert math.isfinite(loss(torch.float32, "reference"))
    assert loss(torch.float64, "reference") == math.inf
    assert loss(torch.float32, "cpp") == math.inf


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("label", [7, 8])
def test_masks_of_the_smallest_number(divergence, backend, label):
    """As many models mask, instead of with -inf."""
    x = inputs(Case(divergence=divergence, reduction="none", alpha=0.0, temperature=1.0))
    x.labels[1:] = label
    side = x.student if divergence == "reverse_kl" else x.teachers[0]
    side[:, [3, 7]] = torch.finfo(torch.float32).min
    ours, exact = evaluate(x, backend), truth(x)
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grads[0].double(), exact.grads[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_several_masks_of_the_smallest_number_are_as_good_as_minus_infinity(
    backend, divergence, temperature
):
    """Also in the cross-entropy, where their sum overflows, and in every gradient."""
    x = masked_by_the_smallest(divergence, temperature)
    ours, exact = evaluate(x, backend), truth(x)
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.grads, exact.grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "dkd"])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_divergence_is_infinite_above_a_bound_and_before_sums_overflow(
    dtype, backend, divergence
):
    near, far = (far_apart(divergence, logit).to(dtype) for logit in (1e32, 1e38))
    share = 0.25 if divergence == "dkd" else 0.2
    assert evaluate(near, backend).loss.item() == pytest.approx(share * 1e32, rel=1e-4)
    found = evaluate(far, backend)
    assert found.loss.item() == math.inf and torch.isfinite(found.grads[0]).all()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_smoothing_over_classes_masked_by_the_smallest_number_is_infinite(backend):
    student = torch.tensor([[1.0, 0.0, MOST_NEGATIVE, MOST_NEGATIVE]])
    losses = [
        kd_loss(
            student.to(dtype), student, LABEL, alpha=1.0, label_smoothing=s, backend=backend
        ).item()
        for dtype in (torch.float32, torch.float64)
        for s in (0.0, 0.125)
    ]
    expected = math.log1p(math.exp(-1.0))
    assert losses == [pytest.approx(expected), math.inf] * 2


MOST_NEGATIVE = torch.finfo(torch.float32).min
LABEL = torch.tensor([0])


@pytest.mark.parametrize("divergence", ["dkd", "forward_kl"])
def test_teachers_far_from_the_student_get_finite_gradients(divergence):
    x = far_apart(divergence, 3e38)
    x.student, x.teachers[0] = x.teachers[0], x.student
    x.arguments.update(divergence_params=(1.0, 8.0) if divergence == "dkd" else None)
    x.arguments.update(temperature=2.0, teacher_grad=True)
    ours, exact = evaluate(x, "cpp"), truth(x)
    torch.testing.assert_close(ours.grads[1].double(), exact.grads[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("margins", "weights"), [((100.0, 90.0), (0.5, 0.5)), ((95.0, 5.0), (1, 0))]
)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropies_that_underflow_count_as_none(dtype, backend, margins, weights):
    teachers = [torch.tensor([[margin, 0.0, 0.0]], dtype=dtype) for margin in margins]
    student, label = torch.tensor([[0.5, 1.0, 0.0]], dtype=dtype), torch.tensor([1])
    options = {"alpha": 0.0, "temperature": 32.0, "backend": backend}
    found = kd_loss(student, teachers, label, weighting="entropy", **options)
    given = kd_loss(student, teachers, label, weighting=weights, **options)
    assert found.item() == pytest.approx(given.item())


def test_dkd_of_a_student_that_is_sure_of_another_class():
    """The logarithm of the rest's probability is below that of anything that stands for 0."""
    student = torch.tensor([[3e31, 0.0]])
    options = {"alpha": 0.0, "temperature": 1.0, "divergence": "dkd"}
    for backend in ("reference", "cpp"):
        z = student.clone().requires_grad_()
        loss = kd_loss(z, torch.zeros(1, 2), torch.tensor([0]), backend=backend, **options)
        loss.backward()
        assert loss.item() == pytest.approx(1.5e31)
        assert z.grad.tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("where", ["student", "teacher"])
@pytest.mark.parametrize("rest", [0.0, -math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("label", [7, 8])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_what_has_no_softmax_gives_nan(where, divergence, rest, bad, label, backend):
    x = inputs(Case(divergence=divergence, reduction="none", alpha=0.5))
    t = x.student if where == "student" else x.teachers[1]
    t[4], x.labels[4] = rest, label
    t[4, 7] = bad
    loss = evaluate(x, backend).loss
    assert torch.isnan(loss).tolist() == [False, False, False, False, True, False]


def test_unread_rows_may_hold_anything():
    x = inputs(Case(slices="disjoint", weighting="routed", ignored=1, teacher_grad=True))
    expected = evaluate(x, "cpp")
    x.student[0] = math.nan  # ignored
    for k, (start, stop) in enumerate(x.arguments["slices"]):
        owned = (x.labels >= start) & (x.labels < stop)
        x.teachers[k][~owned] = math.nan
    ours = evaluate(x, "cpp")
    assert torch.equal(ours.loss, expected.loss)
    for a, b in zip(ours.grads, expected.grads, strict=True):
        assert torch.equal(a, b)


# --- corners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_no_rows(reduction):
    x = inputs(Case(rows=0, ignored=0, reduction=reduction))
    ours = evaluate(x, "cpp")
    assert ours.loss.shape == ((0,) if reduction == "none" else ())
    assert ours.loss.sum() == 0 and ours.grads[0].shape == (0, 23)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_all_rows_ignored(reduction):
    ours = evaluate(inputs(Case(ignored=6, reduction=reduction)), "cpp")
    assert (ours.loss == 0).all() and (ours.grads[0] == 0).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("slices", SLICES)
def test_one_teacher(slices, weighting):
    x = inputs(Case(teachers=1, weighting=weighting, slices=slices))
    assert_accurate(x, evaluate(x, "cpp"))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_one_class(weighting, divergence):
    x = inputs(Case(classes=1, divergence=divergence, weighting=weighting, teacher_grad=True))
    x.labels[1:] = 0
    ours = evaluate(x, "cpp")
    assert abs(ours.loss.item()) < 1e-6
    assert all((g.abs() < 1e-6).all() for g in ours.grads)


def test_thirty_two_teachers():
    x = inputs(Case(rows=3, teachers=32, weighting="confidence"))
    assert_accurate(x, evaluate(x, "cpp"))


@pytest.mark.parametrize("label", [-1, 23, 2**40])
def test_a_label_out_of_range(label):
    x = inputs(Case())
    x.labels[3] = label
    with pytest.raises(ValueError, match=rf"^labels\[3\] is {label}; expected 0 to 22"):
        evaluate(x, "cpp")


def test_an_own_ignore_index():
    x = inputs(Case(ignored=2))
    expected = evaluate(x, "cpp")
    x.labels[:2] = 5
    x.labels[2:] = x.labels[2:].where(x.labels[2:] != 5, 6)
    x.arguments["ignore_index"] = 5
    ours = evaluate(x, "cpp")
    assert (ours.grads[0][:2] == 0).all()
    assert expected.grads[0].shape == ours.grads[0].shape
