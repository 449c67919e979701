"""kd_loss: the CUDA kernels, emulated on the CPU everywhere and run where there is a GPU."""

from __future__ import annotations

import itertools
import math

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
    masks,
    truth,
)
from tests.ops.cuda_emulation import driver
from tests.ops.cuda_emulation.driver import Device

MIXED = (torch.bfloat16, torch.float32, torch.float16)


def assert_emulation_accurate(x: Inputs, device: Device | None = None) -> driver.Choice:
    ours, choice = driver.evaluate(x, device)
    assert_accurate(x, ours)
    return choice


# --- emulated: what the operator combines ---------------------------------------------------------


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_combination(divergence, weighting, slices):
    case = Case(divergence=divergence, weighting=weighting, slices=slices, teacher_dtypes=MIXED)
    x = inputs(case.but(rows=4, label_smoothing=0.125, teacher_grad=True))
    choice = assert_emulation_accurate(x)
    assert choice.warp_per_row and not choice.vectors
    assert choice.prepared == (slices == "lists")


# Classes in multiples of eight: 16-byte accesses; slices in multiples of eight keep them.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_vectors(divergence, dtype):
    x = inputs(Case(rows=3, classes=296, divergence=divergence, dtype=dtype, teacher_grad=True))
    assert assert_emulation_accurate(x).vectors
    x.arguments |= {"slices": [(8, 24), (0, 296), (16, 280)], "weighting": "entropy"}
    slices = x.arguments["slices"]
    x.teachers = [t[:, a:b].contiguous() for t, (a, b) in zip(x.teachers, slices, strict=True)]
    assert assert_emulation_accurate(x).vectors


# Both sides of every limit between regimes; clusters only where the device has them.
REGIMES = [
    (Case(rows=3, classes=1024, teachers=2), Device(), {"warp_per_row": True, "vectors": True}),
    (Case(rows=3, classes=1025, teachers=2), Device(), {"warp_per_row": False, "threads": 64}),
    (Case(rows=3, classes=4200, teachers=2), Device(), {"threads": 256, "vectors": True}),
    (Case(rows=2, classes=16385, teachers=2), Device(8), {"cluster": 2, "vectors": False}),
    (Case(rows=1, classes=33000, teachers=2), Device(8), {"cluster": 4, "vectors": True}),
    (Case(rows=2, classes=33000, teachers=1), Device(clusters=False), {"cluster": 1}),
    (Case(rows=40, classes=900), Device(shared=32 << 10), {"threads": 256}),
    (Case(rows=3, classes=1100), Device(shared=16 << 10), {"threads": 64}),
]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("case", "device", "expected"), REGIMES)
def test_regimes(case, device, expected, divergence):
    case = case.but(ignored=0, divergence=divergence, weighting="confidence", teacher_grad=True)
    choice = assert_emulation_accurate(inputs(case.but(slices="all")), device)
    assert {name: getattr(choice, name) for name in expected} == expected
    if case.classes < 10000:
        assert_emulation_accurate(inputs(case.but(slices="overlapping")), device)
        assert_emulation_accurate(inputs(case.but(slices="lists")), device)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_double(divergence):
    case = Case(rows=3, divergence=divergence, weighting="entropy", slices="lists")
    case = case.but(teacher_grad=True, label_smoothing=0.125)
    for dtype, teacher_dtypes in (
        (torch.float64, ()),
        (torch.float32, (torch.float64, torch.bfloat16)),
    ):
        x = inputs(case.but(dtype=dtype, teacher_dtypes=teacher_dtypes))
        assert assert_emulation_accurate(x).doubles


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reductions(reduction):
    for case in (Case(rows=9), Case(rows=9, ignored=9), Case(rows=0, ignored=0)):
        ours, _ = driver.evaluate(inputs(case.but(reduction=reduction)))
        exact = truth(inputs(case.but(reduction=reduction)))
        torch.testing.assert_close(ours.loss, exact.loss.float())
        torch.testing.assert_close(ours.grads[0], exact.grads[0].float())


def test_very_many_labels_are_counted_by_a_launch_of_their_own():
    x = inputs(Case(rows=16500, classes=2, teachers=1, ignored=16490))
    assert assert_emulation_accurate(x, Device(processors=8)).prepared


@pytest.mark.parametrize("classes", [6, 1030])
@pytest.mark.parametrize("beta", [1e-7, 1 - 1e-7])
def test_a_share_of_one_side_in_ten_million_keeps_the_digits_of_js(beta, classes):
    """The mixture itself is the other side after rounding, and its log ratio to it would be 0."""
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(4, classes, generator=generator) for _ in range(2))
    arguments = {"divergence": "js", "divergence_params": [beta], "temperature": 1.0}
    x = Inputs(z, [t], torch.zeros(4).long(), arguments | {"alpha": 0.0, "teacher_grad": True})
    ours, _ = driver.evaluate(x)
    log_p, log_q = (y.double().log_softmax(1) for y in (z, t))
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
    for share, log_side, grad in ((1 - beta, log_p, ours.grads[0]), (beta, log_q, ours.grads[1])):
        ratio, side = log_side - log_m, log_side.exp()
        expected = share * side * (ratio - (side * ratio).sum(1, keepdim=True)) / 4
        error = (grad.double() - expected).abs().max()
        assert error < 1e-4 * expected.abs().max()


def test_most_teachers():
    assert_emulation_accurate(inputs(Case(rows=3, teachers=32, weighting="confidence")))
    assert_emulation_accurate(inputs(Case(rows=2, classes=1030, teachers=32, divergence="js")))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_one_class_and_one_teacher(divergence, weighting):
    case = Case(rows=3, divergence=divergence, weighting=weighting, teacher_grad=True)
    assert_emulation_accurate(inputs(case.but(classes=1, teachers=2)))
    assert_emulation_accurate(inputs(case.but(teachers=1)))
    assert_emulation_accurate(inputs(case.but(alpha=0.0, temperature=(1.0, 2.0, 0.5))))
    assert_emulation_accurate(inputs(case.but(alpha=1.0)))


# --- emulated: memory -----------------------------------------------------------------------------


def surrounded(x: torch.Tensor, before: int, after: int, step: int = 1) -> torch.Tensor:
    """The same numbers inside a larger tensor of NaN, whose rows are not theirs alone."""
    larger = torch.full((x.shape[0], before + x.shape[1] * step + after), torch.nan, dtype=x.dtype)
    view = larger[:, before : before + x.shape[1] * step : step]
    view.copy_(x)
    return view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [40, 1048])
def test_strides_and_misaligned_views(classes, dtype):
    x = inputs(Case(rows=3, classes=classes, dtype=dtype, teacher_grad=True))
    for views, vectors in (
        ([(8, 8, 1)] * 4, True),
        ([(8, 0, 1), (16, 8, 1), (0, 8, 1), (0, 3, 1)], False),
        ([(1, 0, 1), (8, 8, 1), (8, 8, 1), (8, 8, 1)], False),
        ([(8, 8, 1), (0, 5, 2), (8, 8, 1), (3, 0, 3)], False),
    ):
        student, *teachers = (
            surrounded(t, *view) for t, view in zip([x.student, *x.teachers], views, strict=True)
        )
        labels = x.labels.repeat_interleave(2)[::2]
        moved = Inputs(student, teachers, labels, x.arguments)
        assert assert_emulation_accurate(moved).vectors == vectors
    transposed = Inputs(x.student.T.contiguous().T, x.teachers, x.labels, x.arguments)
    assert_emulation_accurate(transposed)


def test_weights_with_strides():
    x = inputs(Case(rows=5, weighting="given_rows"))
    x.arguments["weighting"] = x.arguments["weighting"].T.contiguous().T
    assert_emulation_accurate(x)
    x.arguments["weighting"] = torch.rand(6)[::2]
    assert_emulation_accurate(x)


def test_what_is_not_read_may_hold_anything():
    x = inputs(Case(rows=5, slices="disjoint", weighting="routed", teacher_grad=True))
    expected = driver.evaluate(x)[0]
    x.student[0] = math.nan  # ignored
    for t, (start, stop) in zip(x.teachers, x.arguments["slices"], strict=True):
        t[(x.labels < start) | (x.labels >= stop)] = math.nan
    ours = driver.evaluate(x)[0]
    assert torch.equal(ours.loss, expected.loss)
    for a, b in zip(ours.grads, expected.grads, strict=True):
        assert torch.equal(a, b)


def test_any_workspace_and_replays_of_one_token():
    """A graph replays the launch with the same token in the same, not cleared, workspace."""
    p = driver.problem_of(inputs(Case(rows=40)))
    first = driver.run(p)
    noise = torch.randint(256, first.workspace.shape, dtype=torch.uint8)
    for workspace in (noise, torch.zeros_like(noise)):
        for _ in range(3):
            again = driver.run(p, workspace=workspace, token=77)
            assert again.choice.blocks > 1
            assert torch.equal(again.loss, first.loss) and torch.equal(again.grad, first.grad)


@pytest.mark.parametrize("label", [-1, 23, 2**40])
def test_a_label_out_of_range_is_nan(label):
    x = inputs(Case(reduction="none", teacher_grad=True))
    x.labels[3] = label
    ours = driver.evaluate(x)[0]
    for t in (ours.loss[:, None], *ours.grads):
        assert torch.isnan(t).all(1).tolist() == [False, False, False, True, False, False]
        assert not torch.isnan(t[[0, 1, 2, 4, 5]]).any()


@pytest.mark.parametrize("entry", [-1, 23, 2**40, "twice"])
def test_a_bad_class_list_is_nan(entry):
    x = inputs(Case(slices="lists", reduction="none", weighting="routed", teacher_grad=True))
    p = driver.problem_of(x)
    p.columns[2][1] = p.columns[2][0] if entry == "twice" else entry
    ours = driver.run(p)
    for row, label in enumerate(x.labels.tolist()):
        if label == -100 or label not in p.columns[2].tolist():
            assert torch.isfinite(ours.loss[row]) and torch.isfinite(ours.grad[row]).all()
        elif label not in p.columns[2][:2].tolist():
            assert torch.isnan(ours.loss[row]) and torch.isnan(ours.grad[row]).all()
    assert torch.isfinite(ours.teacher_grads[2][0]).all()  # of the ignored row


# --- emulated: extreme logits ---------------------------------------------------------------------

MASKS = masks(40)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("weighting", ["mean", "entropy", "confidence"])
def test_masked_logits(weighting, divergence, mask):
    for classes in (40, 39):
        case = Case(rows=3, classes=classes, divergence=divergence, weighting=weighting)
        x = inputs(case.but(ignored=0, reduction="none", teacher_grad=True))
        x.labels[1] = 5
        for t, columns in zip([x.student, x.teachers[0]], MASKS[mask], strict=True):
            t[1, [c for c in columns if c < classes]] = -math.inf
        ours, exact = driver.evaluate(x)[0], truth(x)
        torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
        for a, b in zip(ours.grads, exact.grads, strict=True):
            assert torch.isfinite(a).all()
            finite = torch.isfinite(exact.loss)
            torch.testing.assert_close(a.double()[finite], b[finite], rtol=1e-4, atol=1e-5)


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
        assert torch.isnan(driver.evaluate(x)[0].loss).tolist() == [False, True, False]


@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_large_logits(divergence, scale):
    case = Case(rows=3, divergence=divergence, scale=scale, weighting="confidence")
    assert_emulation_accurate(inputs(case.but(teacher_grad=True, temperature=1.0)))


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_several_masks_of_the_smallest_number(divergence, temperature):
    x = masked_by_the_smallest(divergence, temperature)
    ours, exact = driver.evaluate(x)[0], truth(x)
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.grads, exact.grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [5, 16, 64])  # for each program
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "dkd"])
def test_a_divergence_is_infinite_above_a_bound_and_before_sums_overflow(divergence, classes):
    near = driver.evaluate(far_apart(divergence, 1e32, classes))[0].loss.item()
    assert near == pytest.approx(1e32 / (classes - (divergence == "dkd")), rel=1e-4)
    found = driver.evaluate(far_apart(divergence, 1e38, classes))[0]
    assert found.loss.item() == math.inf and torch.isfinite(found.grads[0]).all()
    smooth = far_apart("forward_kl", 3e38)
    smooth.arguments.update(alpha=1.0, label_smoothing=0.125)
    assert driver.evaluate(smooth)[0].loss.item() == math.inf


def test_a_large_common_offset_costs_no_digits():
    x = inputs(Case(label_smoothing=0.125))
    x.student = (x.student * 8).round() / 8  # exact after the offset, too
    expected = driver.evaluate(x)[0]
    x.student = x.student + 2.0**20
    torch.testing.assert_close(driver.evaluate(x)[0].loss, expected.loss, rtol=1e-6, atol=0)


# --- on a GPU -------------------------------------------------------------------------------------

has_gpu = torch.cuda.is_available() and torch._C._dispatch_has_kernel_for_dispatch_key(
    "edufast::kd_loss", "CUDA"
)
on_gpu = pytest.mark.skipif(not has_gpu, reason="needs a GPU and a build with the CUDA backend")


@on_gpu
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gpu_every_combination(divergence, weighting, slices, dtype):
    case = Case(divergence=divergence, weighting=weighting, slices=slices, dtype=dtype)
    for classes in (23, 48, 1100):
        x = inputs(
            case.but(classes=classes, label_smoothing=0.125, teacher_grad=True), device="cuda"
        )
        assert_accurate(x, evaluate(x, "cuda"))


@on_gpu
@pytest.mark.parametrize("rows", [1, 2, 300])
@pytest.mark.parametrize("classes", [2, 100, 1000, 1024, 1025, 8192, 21841, 50257, 131072, 262144])
def test_gpu_class_counts(classes, rows):
    if rows * classes > 1 << 25:
        pytest.skip("slow in fp64")
    for dtype in (torch.float32, torch.bfloat16):
        x = inputs(Case(rows=rows, classes=classes, ignored=0, dtype=dtype), device="cuda")
        assert_accurate(x, evaluate(x, "cuda"))


@on_gpu
def test_gpu_very_many_rows():
    x = inputs(Case(rows=100000, classes=10, ignored=7), device="cuda")
    assert_accurate(x, evaluate(x, "cuda"))


@on_gpu
def test_gpu_gradcheck():
    case = Case(rows=3, classes=7, dtype=torch.float64, slices="lists", scale=1.0)
    for divergence in DIVERGENCES:
        x = inputs(
            case.but(divergence=divergence, weighting="given_rows", teacher_grad=True),
            device="cuda",
        )

        def loss(student, *teachers, x=x):
            return kd_loss(student, teachers, x.labels, backend="cuda", **x.arguments)

        leaves = [t.requires_grad_() for t in (x.student, *x.teachers)]
        assert torch.autograd.gradcheck(loss, leaves)


@on_gpu
@pytest.mark.parametrize("classes", [100, 1000, 16384, 131072])
def test_gpu_deterministic_on_any_stream(classes):
    x = inputs(Case(rows=64, classes=classes, weighting="entropy"), device="cuda")
    expected = evaluate(x, "cuda")
    streams = [torch.cuda.Stream() for _ in range(4)]
    outcomes = []
    torch.cuda.synchronize()
    for i in range(20):  # several in flight at once
        with torch.cuda.stream(streams[i % 4]):
            outcomes.append(evaluate(x, "cuda"))
    torch.cuda.synchronize()
    for ours in outcomes:
        assert torch.equal(ours.loss, expected.loss)
        assert torch.equal(ours.grads[0], expected.grads[0])


@on_gpu
@pytest.mark.parametrize("slices", ["all", "lists"])
def test_gpu_graph(slices):
    """Captured once, replayed on new numbers; the launch clears up after itself."""
    x = inputs(Case(rows=300, classes=1000, slices=slices), device="cuda")
    x.student.requires_grad_()
    prepared = dict(x.arguments)
    if slices == "lists":  # lists on the CPU would be copied during the capture
        prepared["slices"] = [torch.tensor(s, device="cuda") for s in prepared["slices"]]

    def step():
        x.student.grad = None
        loss = kd_loss(x.student, x.teachers, x.labels, backend="cuda", **prepared)
        loss.backward()
        return loss

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for seed in range(5):
        other = inputs(Case(rows=300, classes=1000, slices=slices, seed=seed), device="cuda")
        with torch.no_grad():
            x.student.copy_(other.student)
            x.labels.copy_(other.labels)
        graph.replay()
        fresh = Inputs(x.student, x.teachers, x.labels, x.arguments)
        expected = evaluate(fresh, "cuda")
        assert torch.equal(loss, expected.loss)
        assert torch.equal(x.student.grad, expected.grads[0])


@on_gpu
@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
def test_gpu_never_waits(device):
    """Nor for numbers in tensors, of the CPU or of the device."""
    x = inputs(Case(rows=300, classes=1000), device="cuda")
    x.student.requires_grad_()
    if device:
        x.arguments |= {"alpha": torch.tensor(0.25, device=device), "temperature": 4.0}
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        kd_loss(x.student, x.teachers, x.labels, backend="cuda", **x.arguments).backward()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@on_gpu
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gpu_numbers_in_tensors(divergence, backend):
    x = inputs(Case(rows=300, classes=1000, divergence=divergence), device="cuda")
    expected = evaluate(x, backend)
    for device in ("cpu", "cuda"):
        for name in ("alpha", "temperature", "label_smoothing"):
            x.arguments[name] = torch.as_tensor(x.arguments[name], device=device)
        ours = evaluate(x, backend)
        assert torch.equal(ours.loss, expected.loss)
        assert torch.equal(ours.grads[0], expected.grads[0])
    x.arguments["alpha"] = torch.tensor(2.0, device="cuda")
    assert evaluate(x, backend).loss.isnan()


@on_gpu
def test_gpu_bad_labels_and_lists_are_nan():
    x = inputs(Case(reduction="none", slices="lists", weighting="mean"), device="cuda")
    x.labels[3] = 23
    loss = evaluate(x, "cuda").loss
    assert torch.isnan(loss).tolist() == [False, False, False, True, False, False]
    columns = [torch.tensor(s, device="cuda") for s in x.arguments["slices"]]
    columns[0][0] = 2**40
    x.arguments["slices"] = columns
    loss = evaluate(x, "cuda").loss
    assert torch.isnan(loss).tolist() == [False, True, True, True, True, True]


@on_gpu
def test_gpu_offsets_beyond_two_to_the_31_elements():
    classes = 1 << 20
    rows = (1 << 31) // classes + 2
    student = torch.zeros(1, classes, dtype=torch.bfloat16, device="cuda").repeat(rows, 1)
    labels = torch.full((rows,), -100, device="cuda")
    labels[-1] = 5
    student[-1, 5] = 3.0
    loss = kd_loss(student.requires_grad_(), [student.detach()], labels, backend="cuda")
    loss.backward()
    expected = 0.3 * (math.log(math.exp(3.0) + classes - 1) - 3.0)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert student.grad[-1, 5] < 0 and not student.grad[:-1].any()
