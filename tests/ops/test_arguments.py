"""What the operators refuse: the public functions, the raw operators in Triton, and the fakes.

The raw operators in C++ are in test_contract.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from edufast.ops import dist_loss, kd_loss, kd_loss_and_grad, merge_, min_norm_weights
from edufast.ops._arguments import class_slices
from edufast.ops.kd_loss import kd_loss_arguments
from edufast.ops.reference.dist_loss import DistLoss
from edufast.ops.reference.kd_loss import KDLoss
from edufast.ops.reference.merge import Merge
from edufast.ops.reference.min_norm import Gram
from tests.ops.cases import Case, inputs

# --- public function ----------------------------------------------------------------------------

ERRORS = [
    ({"temperature": 0.0}, ValueError, "temperature is 0.0"),
    ({"temperature": math.nan}, ValueError, "temperature is nan"),
    ({"temperature": [1.0, 2.0]}, ValueError, "or 3 of them"),
    ({"alpha": 1.5}, ValueError, "alpha is 1.5"),
    ({"alpha": math.nan}, ValueError, "alpha is nan"),
    ({"label_smoothing": 1.0}, ValueError, "label_smoothing is 1.0"),
    ({"weighting": "median"}, ValueError, "weighting is 'median'"),
    ({"weighting": "given"}, ValueError, "weighting is 'given'; expected one of 'mean'"),
    ({"weighting": torch.ones(2)}, ValueError, r"weighting has shape \(2,\)"),
    ({"divergence": "l2"}, ValueError, "divergence is 'l2'"),
    (
        {"divergence": "js", "divergence_params": (1.0,)},
        ValueError,
        "1.0; expected 1e-18 <= beta < 1",
    ),
    ({"divergence": "dkd", "divergence_params": (1.0,)}, ValueError, "expected 2 for dkd"),
    ({"reduction": "max"}, ValueError, "reduction is 'max'"),
    ({"backend": "fortran"}, ValueError, "backend is 'fortran'"),
    ({"backend": "cuda"}, ValueError, "runs on cuda"),
    ({"slices": [(0, 23), (0, 23)]}, ValueError, "one slice for each teacher"),
    ({"slices": [(0, 23), (0, 23), (0, 22)]}, ValueError, "as many classes"),
]


@pytest.mark.parametrize(("change", "error", "message"), ERRORS)
def test_bad_arguments(change, error, message):
    x = inputs(Case())
    arguments = {"backend": "cpp", **x.arguments, **change}
    with pytest.raises(error, match=message):
        kd_loss(x.student, x.teachers, x.labels, **arguments)


def test_bad_tensors():
    x = inputs(Case())
    with pytest.raises(ValueError, match="teachers has 0 tensors; expected 1 to 32"):
        kd_loss(x.student, [], x.labels)
    with pytest.raises(ValueError, match=r"student has shape \(6, 0\); expected \(B, C\)"):
        kd_loss(x.student[:, :0], x.teachers, x.labels)
    with pytest.raises(ValueError, match=r"teachers\[0\] has shape \(6, 23\); expected \(n\) like"):
        kd_loss(x.student[0], x.teachers, x.labels)
    with pytest.raises(ValueError, match=r"teachers\[1\] has shape \(5, 23\)"):
        kd_loss(x.student, [x.teachers[0], x.teachers[1][:5]], x.labels)
    with pytest.raises(TypeError, match=r"teachers\[0\] has dtype torch.int64"):
        kd_loss(x.student, [x.teachers[0].long()], x.labels)
    with pytest.raises(ValueError, match="labels has shape"):
        kd_loss(x.student, x.teachers, x.labels[:3])
    with pytest.raises(ValueError, match=r"float32; expected integers \(6,\) or probabilities"):
        kd_loss(x.student, x.teachers, x.labels.float())
    with pytest.raises(ValueError, match="teachers has 33 tensors; expected 1 to 32"):
        kd_loss(x.student, x.teachers * 11, x.labels, backend="cpp")


def test_slices_prepared_for_other_classes_are_refused():
    student, teachers = torch.zeros(2, 5), [torch.zeros(2, 3)]
    prepared = class_slices([(0, 3)], student, teachers)
    assert class_slices(prepared, student, teachers) is prepared
    with pytest.raises(ValueError, match=r"teachers have \(2,\) classes, but slices name \(3,\)"):
        class_slices(prepared, student, [torch.zeros(2, 2)])


def test_temperatures_that_float32_does_not_hold_are_refused():
    """1e-300 is 0 there, and the square of 1e30 infinite: both gave a NaN loss."""
    x = inputs(Case())
    for temperature in (1e-300, 1e-19, 1e19, 1e30, math.inf):
        for backend in ("reference", "cpp"):
            with pytest.raises(ValueError, match="expected one number from 1e-18 to 1e18"):
                kd_loss(x.student, x.teachers, x.labels, temperature=temperature, backend=backend)
            with pytest.raises(ValueError, match="expected a number from 1e-18 to 1e18"):
                dist_loss(x.student, x.student, temperature=temperature, backend=backend)
    for temperature in (1e-18, 1e18):
        for backend in ("reference", "cpp"):
            loss = kd_loss(
                x.student, x.teachers, x.labels, temperature=temperature, backend=backend
            )
            assert torch.isfinite(loss)


# --- raw operators and fakes --------------------------------------------------------------------


def of_kd_loss(**changes: Any) -> KDLoss:
    x = inputs(Case(slices="lists"))
    return kd_loss_arguments(x.student, x.teachers, x.labels, **x.arguments)._replace(**changes)


def of_dist_loss(**changes: Any) -> DistLoss:
    return DistLoss(torch.zeros(4, 5), torch.zeros(4, 5), 1.0, 1.0, 1.0)._replace(**changes)


def of_gram(**changes: Any) -> Gram:
    p = of_kd_loss()
    return Gram(p.student, p.teachers, p.columns, p.starts, p.temperatures)._replace(**changes)


TWO = torch.zeros(6, 2)
LIST = torch.arange(5)
NONE = {"temperatures": [], "alpha": 0.0, "label_smoothing": 0.0}
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (of_kd_loss, {"student": torch.zeros(6)}, r"student has shape \(6,\)"),
    (of_kd_loss, {"student": torch.zeros(6, 23).long()}, "student has dtype torch.int64"),
    (of_kd_loss, {"teachers": []}, "teachers has 0 tensors; expected 1 to 32"),
    (of_kd_loss, {"teachers": [TWO] * 33}, "teachers has 33 tensors; expected 1 to 32"),
    (of_kd_loss, {"teachers": [TWO[:5]] * 3}, r"teachers\[0\] has shape \(5, 2\)"),
    (of_kd_loss, {"teachers": [TWO[:, :0]] * 3}, r"teachers\[0\] has shape \(6, 0\)"),
    (of_kd_loss, {"teachers": [torch.zeros(6, 24)] * 3}, r"teachers\[0\] .* 1 <= C_k <= 23"),
    (of_kd_loss, {"teachers": [TWO.int()] * 3}, r"teachers\[0\] has dtype torch.int32"),
    (of_kd_loss, {"labels": torch.zeros(5).long()}, r"labels has shape \(5,\)"),
    (of_kd_loss, {"labels": torch.zeros(6, 1).long()}, r"labels has shape \(6, 1\)"),
    (of_kd_loss, {"labels": torch.zeros(6).int()}, "dtype torch.int32; expected"),
    (of_kd_loss, {"weights": torch.zeros(3)}, "weights is a tensor; expected None"),
    (of_kd_loss, {"weighting": 0}, "weights is None; expected a tensor"),
    (of_kd_loss, {"weighting": 0, "weights": torch.zeros(2)}, r"weights has shape \(2,\)"),
    (of_kd_loss, {"weighting": 0, "weights": torch.zeros(5, 3)}, r"weights has shape \(5, 3\)"),
    (of_kd_loss, {"weighting": 0, "weights": torch.zeros(3).double()}, "weights has dtype"),
    (of_kd_loss, {"weighting": 9}, "weighting is 9; expected 0 to 4"),
    (of_kd_loss, {"weighting": -1}, "weighting is -1; expected 0 to 4"),
    (of_kd_loss, {"columns": [LIST]}, "columns has 1 tensors; expected 3"),
    (of_kd_loss, {"columns": [LIST.int()] * 3}, r"columns\[0\] .* dtype torch.int32"),
    (of_kd_loss, {"columns": [LIST[:4]] * 3}, r"columns\[0\] has shape \(4,\)"),
    # Without a class, which stands for a range.
    (of_kd_loss, {"columns": [torch.zeros(0)] * 3}, r"columns\[0\] .* dtype torch.float32"),
    (of_kd_loss, {"columns": [torch.arange(10)[::2]] * 3}, r"columns\[0\] has stride 2"),
    (of_kd_loss, {"starts": [0]}, "starts has 1 numbers; expected 3"),
    (of_kd_loss, {"starts": [1, 0, 0]}, r"starts\[0\] is 1; expected 0 to 0"),
    (of_kd_loss, {"columns": [], "starts": [0, 0, 2**62]}, r"starts\[2\] is .* 0 to 6 for 17"),
    (of_kd_loss, {"columns": [], "starts": [-1, 0, 0]}, r"starts\[0\] is -1; expected 0 to 18"),
    (of_kd_loss, {"temperatures": [4.0]}, "temperatures has 1 numbers; expected 3"),
    (of_kd_loss, {"temperatures": [4.0, math.nan, 4.0]}, r"temperatures\[1\] is nan"),
    (of_kd_loss, {"temperatures": [4.0, 4.0, 1e-300]}, r"temperatures\[2\] is 1e-300"),
    (of_kd_loss, {"alpha": 7.0}, r"alpha is 7.0; expected a number in \[0, 1\]"),
    (of_kd_loss, {"alpha": math.nan}, "alpha is nan"),
    (of_kd_loss, {"divergence": 9}, "divergence is 9; expected 0 to 3"),
    (of_kd_loss, {"divergence": -1}, "divergence is -1; expected 0 to 3"),
    (of_kd_loss, {"divergence_params": [1.0]}, "divergence_params has 1 numbers; expected 0"),
    (of_kd_loss, {"divergence": 2}, "divergence_params has 0 numbers; expected 1 for js"),
    (of_kd_loss, {"divergence": 2, "divergence_params": [1.0]}, "expected 1e-18 <= beta < 1"),
    (of_kd_loss, {"divergence": 2, "divergence_params": [math.nan]}, "<= beta < 1"),
    (of_kd_loss, {"divergence": 3, "divergence_params": [1.0, -1.0]}, r"params\[1\] is -1.0"),
    (of_kd_loss, {"divergence": 3, "divergence_params": [math.inf, 1.0]}, r"params\[0\] is inf"),
    (of_kd_loss, {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    (of_kd_loss, {"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    (of_kd_loss, {"reduction": 3}, "reduction is 3; expected 0 to 2"),
    (of_kd_loss, {"numbers": torch.ones(5).double()}, "numbers is given; expected no floats"),
    (of_kd_loss, NONE | {"numbers": torch.ones(4).double()}, r"numbers has shape \(4,\)"),
    (of_kd_loss, NONE | {"numbers": torch.ones(5)}, "dtype torch.float32; expected"),
    (of_kd_loss, NONE | {"numbers": torch.ones(10).double()[::2]}, "numbers has stride 2"),
    (of_dist_loss, {"numbers": torch.ones(3).double()}, "numbers is given; expected no floats"),
    (of_dist_loss, {"numbers": torch.ones(2).double()}, r"numbers has shape \(2,\)"),
    (of_gram, {"numbers": torch.ones(3).double()}, "numbers is given; expected no floats"),
    (of_gram, {"numbers": torch.ones(2).double()}, r"numbers has shape \(2,\)"),
    (of_dist_loss, {"student": torch.zeros(4)}, r"student has shape \(4,\)"),
    (of_dist_loss, {"teacher": torch.zeros(4, 4)}, r"teacher has shape \(4, 4\)"),
    (of_dist_loss, {"teacher": torch.zeros(4, 5).int()}, "teacher has dtype torch.int32"),
    (of_dist_loss, {"temperature": 0.0}, "temperature is 0.0; expected a number from 1e-18"),
    (of_dist_loss, {"beta": -1.0}, "beta is -1.0; expected a number from 0 to 1e18"),
    (of_dist_loss, {"gamma": math.nan}, "gamma is nan"),
    (of_gram, {"teachers": [TWO] * 33}, "teachers has 33 tensors; expected 1 to 32"),
    (of_gram, {"columns": [LIST[:4]] * 3}, r"columns\[0\] has shape \(4,\)"),
    (of_gram, {"starts": [0, 1]}, "starts has 2 numbers; expected 3"),
    (of_gram, {"temperatures": [4.0, 4.0, -1.0]}, r"temperatures\[2\] is -1.0"),
]
NAMES = {of_kd_loss: "kd_loss", of_dist_loss: "dist_loss", of_gram: "gradient_gram"}


def operator(name: str, backend: str) -> Any:
    if backend == "triton":
        pytest.importorskip("triton")
        import edufast.kernels.dist_loss
        import edufast.kernels.kd_loss
        import edufast.kernels.min_norm  # noqa: F401

        name += "_triton"
    return getattr(torch.ops.edufast, name).default


def on_meta(p: Any) -> Any:
    def move(x: Any) -> Any:
        if isinstance(x, Tensor):
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        return [move(y) for y in x] if isinstance(x, list) else x

    return type(p)(*map(move, p))


@pytest.mark.parametrize("how", ["triton", "fake"])
@pytest.mark.parametrize(("of", "change", "message"), REFUSED)
def test_raw_operators_check_every_argument(of, change, message, how):
    call, p = operator(NAMES[of], "triton" if how == "triton" else "cpp"), of(**change)
    if how == "fake":
        p = on_meta(p)
    with pytest.raises((ValueError, TypeError), match=message):
        call(*p)


@pytest.mark.parametrize("backend", ["cpp", "triton"])
def test_the_weights_of_no_gram_matrix_are_refused(backend):
    call = operator("min_norm_weights", backend)
    for device in ("meta",) if backend == "cpp" else ("cpu", "meta"):
        with pytest.raises(ValueError, match=r"gram has shape \(2, 3\)"):
            call(torch.zeros(2, 3, device=device).double(), 1.0)
        with pytest.raises(ValueError, match=r"cap is 0.5; expected a number above 1/K"):
            call(torch.zeros(2, 2, device=device).double(), 0.5)


# --- meta tensors -------------------------------------------------------------------------------


def mixed(p: Any) -> list[tuple[str, Any]]:
    """``p`` with each of its tensors in turn on meta, and the first of a list."""
    swapped = []
    for name, value in p._asdict().items():
        if isinstance(value, Tensor):
            swapped.append((name, p._replace(**{name: value.to("meta")})))
        elif isinstance(value, list) and value and isinstance(value[0], Tensor):
            new = [value[0].to("meta"), *value[1:]]
            swapped.append((f"{name}[0]", p._replace(**{name: new})))
    return swapped


@pytest.mark.parametrize("backend", ["cpp", "triton"])
@pytest.mark.parametrize("of", NAMES)
def test_a_meta_tensor_among_real_ones_is_refused(of, backend):
    """It has no memory: the operator would return what nobody has computed."""
    call = operator(NAMES[of], backend)
    weights = {"weighting": 0, "weights": torch.ones(3)} if of is of_kd_loss else {}
    for name, p in mixed(of(**weights)):
        found = "on cpu; expected meta" if name == "student" else "on meta; expected cpu"
        with pytest.raises(ValueError, match=f"{found}, like student"):
            call(*p)


def test_a_meta_tensor_among_real_ones_is_refused_by_merge():
    """It would have been merged by doing nothing."""
    for name, m in mixed(Merge([torch.zeros(2)] * 2, [torch.ones(2)] * 2, [1.0], 0.0, [], [], [])):
        with pytest.raises(ValueError, match="expected meta tensors throughout, or none"):
            torch.ops.edufast.merge_.default(*m)
        if name == "sources[0]":
            with pytest.raises(
                ValueError, match=r"sources\[0\] is on meta and targets\[0\] on cpu"
            ):
                merge_(m.targets, m.sources)


def test_public_functions_refuse_a_meta_tensor_among_real_ones():
    x = inputs(Case(teachers=1))
    meta = x.teachers[0].to("meta")
    for call in (
        lambda: kd_loss(x.student, [meta], x.labels),
        lambda: kd_loss_and_grad(x.student, [meta], x.labels),
        lambda: min_norm_weights(x.student, [meta]),
    ):
        with pytest.raises(ValueError, match=r"teachers\[0\] is on meta; expected cpu"):
            call()
    with pytest.raises(ValueError, match="teacher is on meta; expected cpu, like student"):
        dist_loss(x.student, meta)
    with pytest.raises(ValueError, match="labels is on meta; expected cpu, like student"):
        kd_loss(x.student, x.teachers, x.labels.to("meta"))


@pytest.mark.parametrize("backend", ["cpp", "triton"])
def test_shapes_are_inferred_from_meta_tensors_alone(backend):
    p = on_meta(of_kd_loss(teacher_grad=True, reduction=0))
    loss, grad, teacher_grads = operator("kd_loss", backend)(*p)
    assert loss.shape == (6,) and loss.dtype == torch.float32 and grad.shape == (6, 23)
    assert [g.shape for g in teacher_grads] == [t.shape for t in p.teachers]
    loss, grad = operator("dist_loss", backend)(*on_meta(of_dist_loss()))
    assert loss.shape == () and grad.shape == (4, 5) and grad.is_meta
    gram = operator("gradient_gram", backend)(*on_meta(of_gram()))
    assert gram.shape == (3, 3) and gram.dtype == torch.float64
    assert operator("min_norm_weights", backend)(gram, 1.0).shape == (3,)


def test_public_functions_run_on_fake_and_on_meta_tensors():
    def run() -> None:
        z, t = torch.zeros(4, 5, requires_grad=True), torch.zeros(4, 5)
        labels = torch.zeros(4, dtype=torch.int64)
        kd_loss(z, [t], labels).backward()
        assert z.grad is not None and z.grad.shape == (4, 5)
        assert kd_loss_and_grad(z, [t], labels)[1].shape == (4, 5)
        assert dist_loss(z, t).shape == ()
        assert min_norm_weights(z, [t, t]).shape == (2,)
        merge_([t], [torch.zeros(4, 5)])

    with FakeTensorMode():
        run()
    with torch.device("meta"):
        run()
