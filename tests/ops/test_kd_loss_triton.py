"""kd_loss in Triton against the fp64 reference; interpreted where there is no GPU.

The interpreter takes tenths of a second for a case, so grids are thinned: every divergence with
every weighting, slices and types taking turns; half of these again in the loop over classes. What
depends on the compiler is in test_triton_offline.py.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

pytest.importorskip("triton")

from edufast.kernels import _common
from edufast.kernels import kd_loss as kernel

from edufast.ops import ClassSlices, kd_loss
from edufast.ops.kd_loss import kd_loss_arguments
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
from tests.ops.devices import TRITON, on_triton

pytestmark = on_triton()

SHORT_LOOP = kernel.Tile(rows=1, classes=16)


@pytest.fixture
def looped(monkeypatch):
    """Every row in blocks of 16 classes."""
    monkeypatch.setattr(kernel, "TILES", ())
    monkeypatch.setattr(kernel, "LOOP", SHORT_LOOP)


@pytest.fixture(params=["tile", "loop"])
def regime(request):
    if request.param == "loop":
        request.getfixturevalue("looped")


def make(case: Case) -> Inputs:
    return inputs(case, TRITON)


def assert_same_values(x: Inputs) -> None:
    """The truth's infinities and zeros, too; gradients where the loss is finite."""
    ours, exact = evaluate(x, "triton"), truth(x)
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
    finite = torch.isfinite(exact.loss)
    for a, b in zip(ours.grads, exact.grads, strict=True):
        torch.testing.assert_close(a[finite].double(), b[finite], rtol=1e-4, atol=1e-5)


# --- what the operator combines -------------------------------------------------------------------


PAIRS = [(d, w) for d in range(len(DIVERGENCES)) for w in range(len(WEIGHTINGS))]


def combination(d: int, w: int) -> Inputs:
    types = (DTYPES[w % 3], DTYPES[(d + w + 1) % 3])
    return make(
        Case(
            rows=3, teachers=2, divergence=DIVERGENCES[d], weighting=WEIGHTINGS[w],
            slices=SLICES[(d + w) % 4], dtype=DTYPES[(d + w) % 3], teacher_dtypes=types,
            temperature=(4.0, 1.0), label_smoothing=0.125 * (w % 2), teacher_grad=True,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("d", "w"), PAIRS)
def test_every_combination(d, w):
    x = combination(d, w)
    assert_accurate(x, evaluate(x, "triton"))


@pytest.mark.parametrize(("d", "w"), PAIRS[::2])
def test_every_combination_looped(d, w, looped):
    x = combination(d, w)
    assert_accurate(x, evaluate(x, "triton"))


# One below, at and above the width of a tile; odd widths load one element at a time.
@pytest.mark.parametrize("classes", [1, 2, 16, 17, 127, 128, 129, 1000, 1025])
def test_class_counts(classes):
    divergence = DIVERGENCES[classes % 4]
    x = make(Case(rows=9, classes=classes, teachers=2, divergence=divergence, slices="overlapping"))
    assert_accurate(x, evaluate(x, "triton"))


def test_rows_longer_than_any_tile():
    x = make(Case(rows=2, classes=2 * kernel.LOOP.classes + 3, teachers=2, ignored=0))
    assert_accurate(x, evaluate(x, "triton"))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_alpha_and_reduction(alpha, reduction):
    x = make(Case(alpha=alpha, reduction=reduction, label_smoothing=0.125, teacher_grad=True))
    upstream = torch.randn(6) if reduction == "none" else torch.tensor(-3.0)
    assert_accurate(x, evaluate(x, "triton", upstream), upstream=upstream)


@pytest.mark.parametrize("weighting", ["entropy", "confidence"])
def test_one_teacher(weighting):
    x = make(Case(teachers=1, weighting=weighting))
    assert_accurate(x, evaluate(x, "triton"))


def five_of_several_types() -> Inputs:
    types = (torch.bfloat16, torch.float32, torch.float16)
    case = Case(rows=2, teachers=5, slices="lists", teacher_dtypes=types, teacher_grad=True)
    return make(case.but(weighting="entropy", temperature=(1.0, 2.0, 4.0, 0.5, 3.0)))


def test_more_teachers_of_several_types_than_a_power_of_two(regime):
    x = five_of_several_types()
    assert_accurate(x, evaluate(x, "triton"))


# --- memory layout --------------------------------------------------------------------------------


def test_strides_offsets_and_misaligned_views(regime):
    x = make(Case(rows=3, classes=37, dtype=torch.bfloat16, slices="overlapping"))
    expected = evaluate(x, "triton")
    x.student = x.student.t().contiguous().t()
    first, second, third = x.teachers
    wide = second.new_zeros(6, 2 * second.shape[1] + 1)
    wide[1::2, 1::2] = second
    shifted = torch.cat([first.new_zeros(1), first.flatten()])[1:].view_as(first)
    x.teachers = [shifted, wide[1::2, 1::2], third.t().contiguous().t()]
    x.labels = torch.stack([x.labels, x.labels], 1)[:, 1]
    ours = evaluate(x, "triton")
    assert torch.equal(ours.loss, expected.loss)
    assert torch.equal(ours.grads[0], expected.grads[0])


def test_offsets_beyond_two_to_the_31_elements(regime):
    """A view into untouched virtual memory: its last element is number 7 * 2^29."""
    if TRITON != "cpu":
        pytest.skip("a GPU's memory is not virtual")
    stride, rows, classes = 2**29, 8, 10
    storage = torch.empty(stride * (rows - 1) + classes, dtype=torch.bfloat16)
    x = make(Case(rows=rows, classes=classes, teachers=1, dtype=torch.bfloat16))
    expected = evaluate(x, "triton")
    far = storage.as_strided((rows, classes), (stride, 1))
    x.student = far.copy_(x.student)
    ours = evaluate(x, "triton")
    assert torch.equal(ours.loss, expected.loss)
    assert torch.equal(ours.grads[0], expected.grads[0])


def test_every_gradient_element_is_written(regime, monkeypatch):
    """Outputs start as NaN instead of whatever memory held."""
    empty_results = kernel.empty_results

    def poisoned(p):
        loss, grad, teacher_grads = empty_results(p)
        return loss, grad.fill_(math.nan), [t.fill_(math.nan) for t in teacher_grads]

    monkeypatch.setattr(kernel, "empty_results", poisoned)
    x = make(Case(rows=6, ignored=3, slices="disjoint", weighting="routed", teacher_grad=True))
    for grad in evaluate(x, "triton").grads:
        assert torch.isfinite(grad).all() and (grad[:3] == 0).all()


# --- extreme logits -------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_large_logits(divergence, regime):
    case = Case(divergence=divergence, scale=100.0, temperature=1.0, weighting="confidence")
    x = make(case.but(rows=4, teacher_grad=True))
    ours = evaluate(x, "triton")
    assert torch.isfinite(ours.loss)
    assert_accurate(x, ours)


def test_a_large_common_offset_costs_no_digits(regime):
    x = make(Case(rows=3, teachers=2, label_smoothing=0.125))
    x.student = (x.student * 8).round() / 8  # exact after the offset, too
    expected = evaluate(x, "triton")
    x.student = x.student + 2.0**20
    ours = evaluate(x, "triton")
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grads[0], expected.grads[0], rtol=1e-5, atol=1e-7)


# Row by row: classes masked in the student, classes masked in the first teacher.
MASKS = [
    ([], []),
    ([], [0, 3]),
    ([0, 3], []),
    ([0, 3], [0, 3]),
    ([3], [0, 3]),
    ([], range(23)),
    (range(23), []),
    (range(16), range(16)),  # a whole block
    (range(22), range(22)),  # all but one
    ([1], [1]),  # the label
]


@pytest.mark.parametrize(
    ("divergence", "weighting"),
    zip(DIVERGENCES, itertools.cycle(["confidence", "entropy", "mean"]), strict=False),
)
def test_masked_logits(divergence, weighting, regime):
    case = Case(rows=len(MASKS), teachers=2, ignored=0, alpha=0.0, reduction="none")
    x = make(case.but(divergence=divergence, weighting=weighting, teacher_grad=True))
    x.labels[-1] = 1
    for row, masks in enumerate(MASKS):
        for t, mask in zip((x.student, x.teachers[0]), masks, strict=True):
            t[row, list(mask)] = -math.inf
    assert_same_values(x)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_mass_that_underflows_against_a_mask_is_infinite(divergence):
    x = make(Case(divergence=divergence, alpha=0.0, temperature=1.0, ignored=0, reduction="none"))
    sides = (x.student, x.teachers[0])
    masked, other = sides if divergence == "forward_kl" else sides[::-1]
    masked[2, 5], other[2, 5] = -math.inf, -500.0
    assert evaluate(x, "triton").loss.isinf().tolist() == [row == 2 for row in range(6)]


@pytest.mark.parametrize("label", [7, 8])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_masks_of_the_smallest_number(divergence, label, regime):
    """As many models mask, instead of with -inf."""
    case = Case(divergence=divergence, reduction="none", alpha=0.0, temperature=1.0)
    x = make(case.but(teacher_grad=True))
    x.labels[1:] = label
    side = x.student if divergence == "reverse_kl" else x.teachers[0]
    side[:, [3, 7]] = torch.finfo(torch.float32).min
    assert_same_values(x)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_several_masks_of_the_smallest_number(divergence, temperature, regime):
    assert_same_values(masked_by_the_smallest(divergence, temperature))


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "dkd"])
def test_a_divergence_is_infinite_above_a_bound_and_before_sums_overflow(divergence, regime):
    share = 0.25 if divergence == "dkd" else 0.2
    near = evaluate(far_apart(divergence, 1e32), "triton").loss.item()
    assert near == pytest.approx(share * 1e32, rel=1e-4)
    found = evaluate(far_apart(divergence, 1e38), "triton")
    assert found.loss.item() == math.inf and torch.isfinite(found.grads[0]).all()
    smooth = far_apart("forward_kl", 3e38)
    smooth.arguments.update(alpha=1.0, label_smoothing=0.125)
    assert evaluate(smooth, "triton").loss.item() == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("label", [7, 8])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_what_has_no_softmax_gives_nan(divergence, label, bad, regime):
    """Also in a row that is masked otherwise, before a block that is nothing but masked."""
    x = make(Case(divergence=divergence, teachers=2, reduction="none", alpha=0.5))
    for row, t in enumerate((x.student, x.student, x.teachers[1], x.teachers[1]), start=2):
        t[row], x.labels[row] = 0.0 if row % 2 else -math.inf, label
        t[row, 7] = bad
    loss = evaluate(x, "triton").loss
    assert torch.isnan(loss).tolist() == [False, False, True, True, True, True]


def test_unread_rows_may_hold_anything(regime):
    x = make(Case(rows=4, slices="disjoint", weighting="routed", teacher_grad=True))
    expected = evaluate(x, "triton")
    x.student[0] = math.nan  # ignored
    for k, (start, stop) in enumerate(x.arguments["slices"]):
        owned = (x.labels >= start) & (x.labels < stop)
        x.teachers[k][~owned] = math.nan
    ours = evaluate(x, "triton")
    assert torch.equal(ours.loss, expected.loss)
    for a, b in zip(ours.grads, expected.grads, strict=True):
        assert torch.equal(a, b)


# --- corners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_no_rows_and_only_ignored_rows(reduction):
    empty = evaluate(make(Case(rows=0, ignored=0, reduction=reduction)), "triton")
    assert empty.loss.sum() == 0 and empty.grads[0].shape == (0, 23)
    ignored = evaluate(make(Case(ignored=6, reduction=reduction)), "triton")
    assert (ignored.loss == 0).all() and (ignored.grads[0] == 0).all()


def test_labels_are_counted_by_several_programs(monkeypatch):
    monkeypatch.setattr(kernel, "_COUNTED", 16)
    x = make(Case(rows=40, classes=10, teachers=1, ignored=21))
    assert_accurate(x, evaluate(x, "triton"))


def test_indices_out_of_range_give_nan():
    """A device is not waited for to check them."""
    x = make(Case(reduction="none"))
    x.labels[3] = 23
    assert torch.isnan(evaluate(x, "triton").loss).tolist() == [row == 3 for row in range(6)]
    x = make(Case(slices="lists", reduction="none"))
    lists = [torch.tensor(s, device=TRITON) for s in x.arguments["slices"]]
    lists[1][0] = 2**40
    sizes = tuple(len(s) for s in lists)
    x.arguments["slices"] = ClassSlices((0,) * 3, tuple(lists), sizes)
    assert torch.isnan(evaluate(x, "triton").loss).tolist() == [row > 0 for row in range(6)]


def test_same_bits_from_run_to_run():
    x = make(Case(rows=65, classes=10, teachers=2, weighting="entropy"))
    first, second = evaluate(x, "triton"), evaluate(x, "triton")
    assert torch.equal(first.loss, second.loss) and torch.equal(first.grads[0], second.grads[0])


def test_what_it_refuses(monkeypatch):
    x = make(Case(teacher_dtypes=(torch.float32, torch.float64)))
    with pytest.raises(TypeError, match=r"teachers\[1\] is torch.float64"):
        evaluate(x, "triton")
    x = make(Case())
    p = kd_loss_arguments(x.student, x.teachers, x.labels, **x.arguments)
    elsewhere = p._replace(teachers=[*x.teachers[:2], x.teachers[2].to("meta")])
    with pytest.raises(ValueError, match=r"teachers\[2\] is on meta"):
        kernel.kd_loss(*elsewhere)
    monkeypatch.setattr(_common, "INTERPRETED", False)
    with pytest.raises(ValueError, match="runs on cuda; student is on cpu"):
        evaluate(inputs(Case()), "triton")


# --- autograd and compilation ---------------------------------------------------------------------


def test_opcheck():
    x = make(Case(rows=2, teachers=1, slices="lists", weighting="given_rows", teacher_grad=True))
    leaves = [t.requires_grad_() for t in (x.student, *x.teachers)]
    arguments = kd_loss_arguments(leaves[0], leaves[1:], x.labels, **x.arguments)
    results = torch.library.opcheck(kernel.kd_loss, tuple(arguments))
    assert set(results.values()) == {"SUCCESS"}


def test_compiles_into_one_graph():
    torch._dynamo.reset()
    x = make(Case(slices="overlapping", weighting="routed", teacher_grad=True))
    expected = evaluate(x, "triton")
    compiled = torch.compile(kd_loss, backend="aot_eager", fullgraph=True)
    leaves = [t.detach().requires_grad_() for t in (x.student, *x.teachers)]
    loss = compiled(leaves[0], leaves[1:], x.labels, backend="triton", **x.arguments)
    assert torch.equal(loss.detach(), expected.loss)
    for a, b in zip(torch.autograd.grad(loss, leaves), expected.grads, strict=True):
        assert torch.equal(a, b)
