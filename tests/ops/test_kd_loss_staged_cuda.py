"""kd_loss: the staged CUDA program, emulated. Its rows have one type and are aligned alike."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from edufast.ops._autograd import gradient_dtype
from edufast.ops.kd_loss import kd_loss_arguments
from tests.ops.cases import (
    DTYPES,
    WEIGHTINGS,
    Case,
    Inputs,
    assert_accurate,
    inputs,
    masks,
    truth,
)
from tests.ops.cuda_emulation import driver
from tests.ops.cuda_emulation.driver import Device

DIVERGENCES = ("forward_kl", "reverse_kl", "dkd")
# One of several rows of a warp, also where it begins between two vectors; a warp; several.
CLASSES = (8, 10, 100, 121, 128, 130, 250, 1000, 1030)


def assert_staged_accurate(x: Inputs, device: Device | None = None) -> driver.Choice:
    ours, choice = driver.evaluate(x, device)
    assert_accurate(x, ours)
    assert choice.staged
    return choice


def assert_general_accurate(x: Inputs) -> None:
    ours, choice = driver.evaluate(x)
    assert_accurate(x, ours)
    assert not choice.staged


def sliced(x: Inputs, slices: list[tuple[int, int]], padding: int = 0) -> Inputs:
    """Teachers that know these classes only, in rows as far apart as the student's."""
    classes = x.student.shape[1]
    teachers = []
    for (a, b), t in zip(slices, x.teachers, strict=True):
        rows = torch.full((t.shape[0], classes + padding), math.nan, dtype=t.dtype)
        rows[:, a:b] = t[:, a:b]
        teachers.append(rows[:, a:b])
    return Inputs(x.student, teachers, x.labels, x.arguments | {"slices": slices})


# Without smoothing, and with one temperature and weight for all rows, a row may be plain.
SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.125])


@SMOOTHING
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_class_counts(divergence, dtype, classes, smoothing):
    case = Case(rows=7, classes=classes, dtype=dtype, divergence=divergence)
    choice = assert_staged_accurate(inputs(case.but(label_smoothing=smoothing)))
    assert choice.plain == (divergence == "forward_kl" and not smoothing)
    if classes < 129 and divergence != "reverse_kl":
        assert choice.lanes == 8
    else:
        assert choice.lanes == (32 if choice.plain and classes <= 1024 else 0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("classes", [50, 300])
def test_slices_and_weightings(classes, divergence, weighting):
    x = inputs(Case(rows=7, classes=classes, divergence=divergence, weighting=weighting))
    third = classes // 3
    slices = [(0, third), (third, classes), (third // 2, 2 * third)]
    assert_staged_accurate(x)
    assert_general_accurate(sliced(x, slices))
    x.arguments |= {"temperature": (4.0, 1.0, 2.0)}
    assert_staged_accurate(x)
    assert_general_accurate(sliced(x, slices))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_temperatures_and_alphas(divergence, alpha, temperature):
    case = Case(rows=5, classes=45, divergence=divergence, alpha=alpha, temperature=temperature)
    assert_staged_accurate(inputs(case))
    assert_staged_accurate(inputs(case.but(classes=300)))


@pytest.mark.parametrize("weighting", ["confidence", "mean"])
@pytest.mark.parametrize("teachers", [1, 2, 7, 8, 9, 32])
@pytest.mark.parametrize("classes", [100, 300])
def test_numbers_of_teachers(classes, teachers, weighting):
    case = Case(rows=4, classes=classes, teachers=teachers, weighting=weighting)
    choice = assert_staged_accurate(inputs(case))
    assert choice.plain == (weighting == "mean")
    if classes == 100 and teachers <= 8:
        assert choice.lanes == 8
    elif teachers < 10:
        assert choice.lanes == (32 if weighting == "mean" else 0)


@pytest.mark.parametrize("classes", [23, 300, 1100])
def test_plain_rows_take_a_path_of_their_own(classes):
    """With a smoothing that changes nothing but the path, the last bits differ."""
    case = Case(rows=7, classes=classes, dtype=torch.bfloat16, reduction="none", ignored=0)
    plain, other = (driver.evaluate(inputs(case.but(label_smoothing=s))) for s in (0.0, 1e-30))
    assert (plain[1].plain, other[1].plain) == (True, False)
    torch.testing.assert_close(plain[0].loss, other[0].loss, rtol=1e-5, atol=1e-5)
    assert not torch.equal(plain[0].loss, other[0].loss)


@pytest.mark.parametrize("weights", [(0.2, 0.5, 0.3), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("classes", [23, 300, 1100])
def test_a_weight_for_each_teacher(classes, weights):
    x = inputs(Case(rows=7, classes=classes))
    x.arguments["weighting"] = torch.tensor(weights)
    assert_staged_accurate(x)


# Rows that one block holds, that few rows spread over clusters, and that need one for lack of
# shared memory; for reverse KL, a thread holds half as many classes.
SIZES = [
    (Case(rows=3, classes=4200, teachers=2), Device(), 1, 1),
    (Case(rows=9, classes=9000, teachers=2), Device(), 1, 2),
    (Case(rows=1, classes=33000, teachers=2), Device(64), 16, 16),
    (Case(rows=3, classes=4000, teachers=2), Device(shared=40 << 10), 2, 2),
]


@pytest.mark.parametrize("weighting", ["entropy", "mean"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("case", "device", "cluster", "of_reverse_kl"), SIZES)
def test_clusters(case, device, cluster, of_reverse_kl, divergence, weighting):
    x = inputs(case.but(ignored=0, divergence=divergence, weighting=weighting))
    expected = of_reverse_kl if divergence == "reverse_kl" else cluster
    assert assert_staged_accurate(x, device).cluster == expected


def test_rows_that_no_cluster_holds_go_to_the_general_program():
    case = Case(rows=1, classes=2000, teachers=2, ignored=0)
    assert not driver.evaluate(inputs(case), Device(shared=16 << 10, clusters=False))[1].staged


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("classes", [20, 200])
def test_reductions(classes, reduction):
    case = Case(classes=classes, reduction=reduction)
    for rows, ignored in ((1, 0), (1, 1), (9, 2), (9, 9), (70, 5)):
        assert_staged_accurate(inputs(case.but(rows=rows, ignored=ignored)))
    assert not driver.evaluate(inputs(case.but(rows=0, ignored=0)))[0].loss.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [1, 4, 7])
@pytest.mark.parametrize("classes", [33, 264])
def test_rows_that_begin_between_two_vectors(classes, shift, dtype):
    """What lies beside a row is NaN, and is neither taken in nor written."""
    x = inputs(Case(rows=5, classes=classes, dtype=dtype, ignored=0))
    width = classes + 16  # as the contiguous gradients, modulo eight
    moved = []
    for t in (x.student, *x.teachers):
        larger = torch.full((len(t), width), math.nan, dtype=t.dtype)
        larger[:, shift : shift + classes] = t
        moved.append(larger[:, shift : shift + classes])
    p = kd_loss_arguments(moved[0], moved[1:], x.labels, **x.arguments)
    around = torch.full((p.student.numel() + 64,), math.nan, dtype=gradient_dtype(p.student))
    begin = -around.data_ptr() // around.element_size() % 8 + 8 + shift
    view = around[begin : begin + p.student.numel()].view(p.student.shape)
    ours = driver.run(p, grad=view)
    assert ours.choice.staged
    expected = driver.run(driver.problem_of(x))
    torch.testing.assert_close(ours.loss, expected.loss)
    torch.testing.assert_close(ours.grad, expected.grad)
    written = torch.isfinite(around)
    assert written[begin : begin + p.student.numel()].all()
    assert written.sum() == p.student.numel()


@pytest.mark.parametrize("classes", [24, 264])
def test_any_workspace_and_replays_of_one_token(classes):
    """A graph replays the launch with the same token in the same, not cleared, workspace."""
    p = driver.problem_of(inputs(Case(rows=40, classes=classes)))
    first = driver.run(p)
    noise = torch.randint(256, first.workspace.shape, dtype=torch.uint8)
    for workspace in (noise, torch.zeros_like(noise)):
        for order in (0, 1, 2):
            again = driver.run(p, workspace=workspace, token=77, order=order)
            assert again.choice.blocks > 1 and again.choice.staged
            assert torch.equal(again.loss, first.loss) and torch.equal(again.grad, first.grad)


@pytest.mark.parametrize("classes", [24, 264])
def test_what_is_not_read_may_hold_anything(classes):
    x = inputs(Case(rows=6, classes=classes))
    weights = torch.rand(6, 3)
    weights[1::2, 0] = weights[2, 2] = 0
    x.arguments["weighting"] = weights
    expected = driver.evaluate(x)[0]
    x.student[0] = math.nan  # ignored
    for k, t in enumerate(x.teachers):
        t[weights[:, k] == 0] = math.nan
    ours, choice = driver.evaluate(x)
    assert choice.staged and torch.equal(ours.loss, expected.loss)
    assert torch.equal(ours.grads[0], expected.grads[0])


@pytest.mark.parametrize("classes", [24, 264])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_counts_for_nothing_may_hold_anything(divergence, classes):
    x = inputs(Case(rows=3, classes=classes, divergence=divergence, alpha=0.0, ignored=0))
    x.arguments["weighting"] = torch.ones(3, 3)
    x.arguments["weighting"][1] = 0
    x.student[1] = math.nan
    ours, choice = driver.evaluate(x)
    assert choice.staged and torch.isfinite(ours.loss)
    assert torch.isfinite(ours.grads[0]).all() and not ours.grads[0][1].any()


@pytest.mark.parametrize("label", [-1, 48, 2**40])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_label_out_of_range_is_nan(divergence, label):
    x = inputs(Case(classes=48, divergence=divergence, reduction="none"))
    x.labels[3] = label
    ours, choice = driver.evaluate(x)
    for t in (ours.loss[:, None], *ours.grads):
        assert torch.isnan(t).all(1).tolist() == [False, False, False, True, False, False]
        assert not torch.isnan(t[[0, 1, 2, 4, 5]]).any()
    assert choice.staged


MASKS = masks(300)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("weighting", ["mean", "entropy", "confidence"])
def test_masked_logits(weighting, divergence, mask):
    for classes in (40, 39, 300):
        case = Case(rows=3, classes=classes, divergence=divergence, weighting=weighting)
        x = inputs(case.but(ignored=0, reduction="none"))
        x.labels[1] = 5
        for t, columns in zip([x.student, x.teachers[0]], MASKS[mask], strict=True):
            t[1, [c for c in columns if c < classes]] = -math.inf
        (ours, choice), exact = driver.evaluate(x), truth(x)
        assert choice.staged
        torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
        for a, b in zip(ours.grads, exact.grads, strict=True):
            assert torch.isfinite(a).all()
            finite = torch.isfinite(exact.loss)
            torch.testing.assert_close(a.double()[finite], b[finite], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_masks_that_are_the_lowest_number_of_their_type(divergence, dtype, temperature):
    for classes, weighting in itertools.product((23, 600), ("entropy", "mean")):
        case = Case(rows=3, classes=classes, divergence=divergence, temperature=temperature)
        x = inputs(case.but(dtype=dtype, weighting=weighting, ignored=0))
        x.labels[:] = 5
        for t in (x.student, *x.teachers):
            t[1, [0, 3, classes - 1]] = torch.finfo(dtype).min
        ours, choice = driver.evaluate(x)
        exact = truth(x)
        assert choice.staged
        torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
        rtol = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours.grads[0].double(), exact.grads[0], rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rest", [0.0, -math.inf])
@pytest.mark.parametrize("where", ["student", "teacher"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_what_has_no_softmax_gives_nan(divergence, where, rest, bad):
    for classes, label in itertools.product((23, 40, 1040), (7, 8)):
        case = Case(rows=3, classes=classes, divergence=divergence, ignored=0, alpha=0.5)
        x = inputs(case.but(reduction="none"))
        t = x.student if where == "student" else x.teachers[1]
        t[1], x.labels[1] = rest, label
        t[1, 7] = bad
        ours, choice = driver.evaluate(x)
        assert choice.staged and torch.isnan(ours.loss).tolist() == [False, True, False]


@pytest.mark.parametrize("weighting", ["confidence", "mean"])
@pytest.mark.parametrize("scale", [100.0, 1e4, 1e7])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_large_logits(divergence, temperature, scale, weighting):
    case = Case(rows=3, divergence=divergence, scale=scale, weighting=weighting)
    for classes in (23, 600):
        assert_staged_accurate(inputs(case.but(classes=classes, temperature=temperature)))


@SMOOTHING
@pytest.mark.parametrize("classes", [23, 600])
def test_a_large_common_offset_costs_no_digits(classes, smoothing):
    """Neither of the student nor of a teacher, and neither of the loss nor of the gradient."""
    x = inputs(Case(classes=classes, label_smoothing=smoothing, temperature=3.0))
    for t in (x.student, *x.teachers):
        t.copy_((t * 8).round() / 8)  # exact after the offset, too
    expected = driver.evaluate(x)[0]
    x.student = x.student + 2.0**20
    x.teachers[0] = x.teachers[0] - 2.0**20
    ours, choice = driver.evaluate(x)
    assert choice.staged
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grads[0], expected.grads[0], rtol=1e-4, atol=1e-7)


@SMOOTHING
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_numbers_in_the_devices_memory(divergence, smoothing):
    for classes in (40, 300):
        x = inputs(Case(classes=classes, divergence=divergence, label_smoothing=smoothing))
        p = driver.problem_of(x)
        numbers = torch.tensor(p.floats.row(), dtype=torch.float64)
        expected = driver.run(p)
        ours = driver.run(p._replace(numbers=numbers))
        assert ours.choice.staged
        assert torch.equal(ours.loss, expected.loss) and torch.equal(ours.grad, expected.grad)
        numbers[0] = -1.0
        assert torch.isnan(driver.run(p._replace(numbers=numbers)).loss)
