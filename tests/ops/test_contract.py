"""The operators torch.ops.edufast.* called directly: what does not fit is an error that names it.

Python's checks do not stand in between, and a wrong number must not reach a kernel's memory: `make
sanitize` runs these tests, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edufast.ops import MergePlan

ROWS, CLASSES = 4, 6
JS, DKD = 2, 3  # among the divergences
INT64 = (-(2**63), 2**63 - 1)


def logits(rows: int = ROWS, classes: int = CLASSES, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(rows, classes, dtype=dtype)


def indices(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


# --- calls that are right, argument by argument ---------------------------------------------------


def kd_loss() -> dict[str, Any]:
    return {
        "student": logits(),
        "teachers": [logits(classes=2), logits(classes=3)],
        "labels": indices(0, 1, -100, 5),
        "weights": None,
        "columns": [indices(), indices(5, 0, 2)],
        "starts": [4, 0],
        "temperatures": [4.0, 1.0],
        "alpha": 0.3,
        "weighting": 1,
        "divergence": 0,
        "divergence_params": [],
        "label_smoothing": 0.1,
        "ignore_index": -100,
        "reduction": 1,
        "teacher_grad": True,
    }


def gradient_gram() -> dict[str, Any]:
    names = ("student", "teachers", "columns", "starts", "temperatures")
    return {name: value for name, value in kd_loss().items() if name in names}


def dist_loss() -> dict[str, Any]:
    teacher = logits(dtype=torch.bfloat16)
    return {"student": logits(), "teacher": teacher, "temperature": 1.0, "beta": 1.0, "gamma": 2.0}


def min_norm_weights() -> dict[str, Any]:
    return {"gram": torch.eye(3, dtype=torch.float64), "cap": 0.5}


def merge_() -> dict[str, Any]:
    return {
        "targets": [torch.zeros(3), torch.ones(3), torch.zeros(2, 2)],
        "sources": [torch.zeros(2), torch.ones(2), torch.zeros(1, 2)] * 2,
        "weights": [0.25, 0.5],
        "keep": 0.25,
        "fill": [0.0, 1.0, math.nan],
        "moments": [0, 1],
        "moment_weights": [0.5, 0.25],
    }


def merge_plan() -> dict[str, Any]:
    names = ("targets", "sources", "fill", "moments")
    m = {name: value for name, value in merge_().items() if name in names}
    return m | {"num_sources": 2}


def merge_plan_run() -> dict[str, Any]:
    names = ("weights", "keep", "moment_weights")
    numbers = {name: value for name, value in merge_().items() if name in names}
    return numbers | {"plan": torch.ops.edufast.merge_plan(**merge_plan())}


def merge_plan_free() -> dict[str, Any]:
    return {"plan": torch.ops.edufast.merge_plan(**merge_plan())}


def augment() -> dict[str, Any]:
    return {
        "images": torch.zeros(3, 4, 5, 2, dtype=torch.uint8),
        "index": indices(2, 0),
        "views": indices(0, 17),
        "pad": 1,
        "flip": True,
        "mean": [0.5, 0.25],
        "std": [0.25, 1.0],
        "dtype": torch.bfloat16,
    }


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "augment": augment,
    "kd_loss": kd_loss,
    "gradient_gram": gradient_gram,
    "dist_loss": dist_loss,
    "min_norm_weights": min_norm_weights,
    "merge_": merge_,
    "merge_check": merge_,
    "merge_plan": merge_plan,
    "merge_plan_run": merge_plan_run,
    "merge_plan_free": merge_plan_free,
}


def call(operator: str, **changes: Any) -> Any:
    return getattr(torch.ops.edufast, operator)(**CALLS[operator]() | changes)


@pytest.mark.parametrize("operator", CALLS)
def test_the_calls_that_the_wrong_ones_are_made_from_are_right(operator):
    call(operator)


def test_every_operator_of_the_library_is_here():
    names = (n for n in torch._C._dispatch_get_all_op_names() if n.startswith("edufast::"))
    compiled = {n for n in names if "/csrc/" in torch._C._dispatch_dump(n)}
    on_gpus_only = {"edufast::scale_"}  # in test_autograd.py
    assert compiled == {f"edufast::{name}" for name in CALLS} | on_gpus_only


# --- what may be wrong with an argument -----------------------------------------------------------

below_zero, above_one = st.floats(max_value=-1e-300), st.floats(min_value=1 + 2**-52)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])
no_temperature = (
    not_finite
    | st.floats(max_value=9.9e-19)
    | st.floats(min_value=1.1e18)
    | st.sampled_from([0.0, -0.0, 1e-300, -4.0])
)
no_term_weight = not_finite | below_zero | st.floats(min_value=1.1e18)


def outside(low: int, high: int) -> st.SearchStrategy[int]:
    return (
        st.integers(INT64[0], low - 1)
        | st.integers(high + 1, INT64[1])
        | st.sampled_from([low - 1, high + 1, *INT64])
    )


def one_wrong(values: list[Any], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """The list with one of its entries replaced."""
    places = st.integers(0, len(values) - 1)
    return st.builds(lambda i, x: [*values[:i], x, *values[i + 1 :]], places, wrong)


def other_counts(entry: Any, *right: int) -> st.SearchStrategy[list[Any]]:
    return st.integers(0, 40).filter(lambda n: n not in right).map(lambda n: [entry] * n)


no_logits = st.sampled_from(
    [
        torch.zeros(CLASSES),
        torch.zeros(ROWS, CLASSES, 1),
        torch.zeros(()),
        logits(dtype=torch.int64),
        logits(dtype=torch.bool),
        logits(dtype=torch.cfloat),
        logits(classes=0),
    ]
)
no_teacher = no_logits | st.sampled_from(
    [logits(rows=3), logits(rows=0), logits(classes=7), torch.zeros(1).expand(ROWS, 2**40)]
)
no_student = no_logits | st.sampled_from(
    [logits(rows=3), logits(classes=2), torch.zeros(1).expand(ROWS, 2**31)]
)
no_list = st.sampled_from(
    [
        indices(1),
        indices(0, 1, 2, 3),
        indices(0, 1, 1),
        indices(0, 1, 2).int(),
        indices(0, 1, 2)[:, None],
        indices(0, 0, 1, 1, 2, 2)[::2],
        torch.zeros(0),
    ]
) | st.builds(lambda c: indices(0, c, 1), outside(0, CLASSES - 1))
TEACHERS: dict[str, st.SearchStrategy[Any]] = {
    "student": no_student,
    "teachers": other_counts(logits(classes=2), 2)
    | one_wrong(kd_loss()["teachers"], no_teacher | st.just(logits(classes=4))),
    "columns": other_counts(indices(), 0, 2) | st.builds(lambda index: [indices(), index], no_list),
    "starts": other_counts(0, 2) | one_wrong([4, 0], outside(0, 4)) | st.just([5, 0]),
    "temperatures": other_counts(1.0, 2) | one_wrong([4.0, 1.0], no_temperature),
}
no_number = not_finite | below_zero | above_one
no_target = [
    torch.zeros(1),
    torch.zeros(3, dtype=torch.cfloat),
    torch.zeros(3, dtype=torch.int64),
    torch.zeros(1).expand(3),
]
no_source = [
    torch.zeros(4),
    torch.zeros(2, 2, 2),
    torch.zeros(2, dtype=torch.int64),
    torch.zeros(2, dtype=torch.cfloat),
]
# A call of merge_ without any tensor does not get past torch's dispatcher.
LISTS: dict[str, st.SearchStrategy[Any]] = {
    "targets": other_counts(torch.zeros(3), 0, 3)
    | one_wrong(merge_()["targets"], st.sampled_from(no_target)),
    "sources": other_counts(torch.zeros(2), 6)
    | one_wrong(merge_()["sources"], st.sampled_from(no_source)),
    "fill": other_counts(0.0, 0, 3) | one_wrong([0.0, 1.0, 2.0], st.sampled_from([1e39, -1e300])),
    "moments": other_counts(0, 0)
    | one_wrong([0, 1], outside(0, 2))
    | st.sampled_from([[0], [0, 2], [1, 1], [0, 1, 0, 1]]),
}
NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "weights": other_counts(0.25, 2) | one_wrong([0.25, 0.5], not_finite),
    "keep": not_finite | st.sampled_from([0.5, -0.25, 1e300]),
    "moment_weights": other_counts(0.25, 0, 2)
    | one_wrong([0.5, 0.25], not_finite | st.floats(2, 1e300)),
}
no_images = st.sampled_from(
    [
        torch.zeros(3, 4, 5, 2),
        torch.zeros(3, 4, 5, dtype=torch.uint8),
        torch.zeros(3, 4, 5, 5, dtype=torch.uint8),
        torch.zeros(3, 4, 5, 0, dtype=torch.uint8),
        torch.zeros(3, 0, 5, 2, dtype=torch.uint8),
        torch.zeros(3, 5, 4, 2, dtype=torch.uint8).transpose(1, 2),
        torch.zeros(0, 2**28, 5, 2, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.uint8).expand(0, 2**40, 2**40, 2),  # a product that wraps around
    ]
)
no_indices = [
    torch.zeros(2),
    torch.zeros((), dtype=torch.int64),
    indices(0, 1).int(),
    indices(0, 1)[:, None],
    indices(0, 0, 1, 1)[::2],
]
WRONG: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "augment": {
        "images": no_images,
        "index": st.sampled_from([*no_indices, indices(0), indices(0, 1, 2)])
        | st.builds(indices, st.just(0), outside(0, 2)),
        "views": st.sampled_from([*no_indices, indices(0), indices(0, 1, 2)])
        | st.builds(indices, st.just(0), outside(0, 17)),
        "pad": outside(0, 2**14 - 1),
        "mean": other_counts(0.5, 2) | one_wrong([0.5, 0.25], not_finite | st.just(1.1e18)),
        "std": other_counts(0.5, 2) | one_wrong([0.25, 1.0], no_temperature),
        "dtype": st.sampled_from([torch.float64, torch.uint8, torch.int64, torch.cfloat]),
    },
    "kd_loss": TEACHERS
    | {
        "labels": one_wrong([0, 1, -100, 5], outside(0, 5).filter(lambda y: y != -100)).map(
            lambda values: indices(*values)
        )
        | st.sampled_from(
            [indices(0), indices(0, 1, 2, 3)[:, None], torch.zeros(ROWS), indices(0, 1, 2, 3).int()]
        ),
        "weights": st.just(torch.ones(3)),
        "alpha": no_number,
        "weighting": outside(1, 4),
        "divergence": outside(0, 3) | st.sampled_from([2, 3]),
        "divergence_params": other_counts(0.5, 0),
        "label_smoothing": no_number | st.just(1.0),
        "reduction": outside(0, 2),
    },
    "gradient_gram": TEACHERS,
    "dist_loss": {
        "student": no_student,
        "teacher": no_teacher | st.just(logits(classes=1)),
        "temperature": no_temperature,
        "beta": no_term_weight,
        "gamma": no_term_weight,
    },
    "min_norm_weights": {
        "gram": st.sampled_from(
            [
                torch.eye(3),
                torch.ones(3, dtype=torch.float64),
                torch.ones(3, 2, dtype=torch.float64),
                torch.ones(3, 3, dtype=torch.float64).triu().T,
                torch.eye(33, dtype=torch.float64),
                torch.zeros(0, 0, dtype=torch.float64),
                torch.tensor(1.0, dtype=torch.float64),
            ]
        ),
        "cap": not_finite | st.floats(max_value=1 / 3) | above_one,
    },
    "merge_": LISTS | NUMBERS,
    "merge_check": LISTS | NUMBERS,
    "merge_plan": LISTS | {"num_sources": outside(2, 2)},
    "merge_plan_run": NUMBERS | {"plan": st.integers(INT64[0], 0) | st.integers(2**40, INT64[1])},
    "merge_plan_free": {"plan": st.integers(INT64[0], 0) | st.integers(2**40, INT64[1])},
}
# Where two arguments do not fit each other, the message may be about either.
ALSO = {
    "index": ("views",),
    "student": ("teachers", "teacher", "labels", "starts", "columns"),
    "teachers": ("columns", "starts", "temperatures"),
    "targets": ("sources", "fill", "moments"),
    "sources": ("targets", "moments"),
    "weights": ("sources", "moment_weights"),
    "moments": ("targets",),
    "keep": ("moments",),
    "moment_weights": ("moments",),
    "num_sources": ("sources",),
    "divergence": ("divergence_params",),
}


@pytest.mark.parametrize("operator", WRONG)
@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_wrong_arguments_are_errors_that_name_one(operator, data):
    wrong = WRONG[operator]
    names = data.draw(st.lists(st.sampled_from(sorted(wrong)), min_size=1, max_size=2, unique=True))
    changes = {name: data.draw(wrong[name], name) for name in names}
    with pytest.raises(RuntimeError) as error:
        call(operator, **changes)
    message = str(error.value)
    named = [name for first in names for name in (first, *ALSO.get(first, ()))]
    assert any(name in message for name in named), message
    assert "; expected " in message and "\n" not in message, message


# --- numbers in a tensor --------------------------------------------------------------------------


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# In the place of these floats.
IN_A_TENSOR: dict[str, tuple[dict[str, Any], list[float], list[st.SearchStrategy[float]]]] = {
    "kd_loss": (
        {"temperatures": [], "alpha": 0.0, "label_smoothing": 0.0},
        [4.0, 1.0, 0.3, 0.1],
        [no_temperature, no_temperature, no_number, no_number | st.just(1.0)],
    ),
    "gradient_gram": ({"temperatures": []}, [4.0, 1.0], [no_temperature] * 2),
    "dist_loss": (
        {"temperature": 0.0, "beta": 0.0, "gamma": 0.0},
        [1.0, 1.0, 2.0],
        [no_temperature, no_term_weight, no_term_weight],
    ),
    "min_norm_weights": (
        {"cap": 0.0},
        [0.5],
        [not_finite | st.floats(max_value=1 / 3) | above_one],
    ),
}


@pytest.mark.parametrize("operator", IN_A_TENSOR)
def test_numbers_in_a_tensor_are_the_floats(operator):
    without, numbers, _ = IN_A_TENSOR[operator]
    ours = call(operator, **without, numbers=doubles(*numbers))
    torch.testing.assert_close(ours, call(operator), rtol=0, atol=0)


@pytest.mark.parametrize("operator", IN_A_TENSOR)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_wrong_numbers_in_a_tensor_are_errors_that_name_one(operator, data):
    without, numbers, wrong = IN_A_TENSOR[operator]
    place = data.draw(st.integers(0, len(numbers) - 1))
    numbers = [*numbers]
    numbers[place] = data.draw(wrong[place])
    with pytest.raises(RuntimeError, match="; expected ") as error:
        call(operator, **without, numbers=doubles(*numbers))
    # The last ones are one number each, the first perhaps as many as there are teachers.
    name = [*without][max(0, place - len(numbers) + len(without))]
    assert name in str(error.value)


@pytest.mark.parametrize("operator", IN_A_TENSOR)
def test_a_tensor_of_numbers_that_does_not_fit(operator):
    without, numbers, _ = IN_A_TENSOR[operator]
    for wrong in (
        doubles(*numbers, 1.0),
        doubles(*numbers[1:]),
        doubles(*numbers)[:, None],
        doubles(*numbers).float(),
        doubles(*numbers, *numbers)[::2] if len(numbers) > 1 else doubles(1.0).long(),
    ):
        with pytest.raises(
            RuntimeError, match=r"numbers has shape .*; expected contiguous float64"
        ):
            call(operator, **without, numbers=wrong)
    with pytest.raises(RuntimeError, match="numbers is given; expected no floats beside it"):
        call(operator, numbers=doubles(*numbers))


def test_numbers_of_a_divergence_are_in_the_tensor():
    without, numbers, _ = IN_A_TENSOR["kd_loss"]
    for divergence, params in ((JS, [0.25]), (DKD, [1.5, 3.0])):
        ours = call("kd_loss", **without, divergence=divergence, numbers=doubles(*numbers, *params))
        expected = call("kd_loss", divergence=divergence, divergence_params=params)
        assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
    with pytest.raises(RuntimeError, match=r"divergence_params\[0\] is 1; expected 1e-18 <= beta"):
        call("kd_loss", **without, divergence=JS, numbers=doubles(*numbers, 1.0))
    with pytest.raises(RuntimeError, match="divergence is 9; expected 0 to 3"):
        call("kd_loss", **without, divergence=9, numbers=doubles(*numbers))


# --- the smallest input for each fault that there was ---------------------------------------------

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    # Read as another choice, or taken as it is.
    ("kd_loss", {"weighting": 9}, "weighting is 9; expected 0 to 4"),
    ("kd_loss", {"weighting": -1}, "weighting is -1; expected 0 to 4"),
    ("kd_loss", {"divergence": 9}, "divergence is 9; expected 0 to 3"),
    ("kd_loss", {"reduction": 9}, "reduction is 9; expected 0 to 2"),
    ("kd_loss", {"alpha": 7.0}, "alpha is 7; expected a number from 0 to 1"),
    ("kd_loss", {"alpha": math.nan}, "alpha is nan; expected a number from 0 to 1"),
    ("kd_loss", {"label_smoothing": 1.0}, r"label_smoothing is 1; expected a number in \[0, 1\)"),
    ("kd_loss", {"weights": torch.ones(2)}, "weights is given; expected none with weighting 1"),
    ("kd_loss", {"divergence": JS}, "divergence_params has 0 numbers; expected 1"),
    ("kd_loss", {"divergence": JS, "divergence_params": [1.0]}, "is 1; expected 1e-18 <= beta < 1"),
    ("kd_loss", {"divergence": JS, "divergence_params": [1e-300]}, "expected 1e-18 <= beta < 1"),
    ("kd_loss", {"divergence": DKD, "divergence_params": [1.0]}, "has 1 numbers; expected 2"),
    ("kd_loss", {"divergence": DKD, "divergence_params": [1.0, 1e39]}, r"params\[1\] is 1e\+39"),
    ("kd_loss", {"divergence_params": [0.5]}, "has 1 numbers; expected 0"),
    # 0 or infinite in float32.
    ("kd_loss", {"temperatures": [1e-300, 1.0]}, r"temperatures\[0\] is 1e-300; expected a number"),
    ("kd_loss", {"temperatures": [1.0, 1e300]}, r"temperatures\[1\] is 1e\+300; expected a number"),
    ("dist_loss", {"temperature": 1e-300}, "temperature is 1e-300; expected a number"),
    ("dist_loss", {"temperature": math.inf}, "temperature is inf; expected a number"),
    ("dist_loss", {"beta": math.nan}, "beta is nan; expected a number from 0"),
    ("dist_loss", {"gamma": -1.0}, "gamma is -1; expected a number from 0"),
    ("gradient_gram", {"temperatures": [1.0, math.inf]}, r"temperatures\[1\] is inf"),
    ("min_norm_weights", {"gram": torch.eye(1).double(), "cap": -math.inf}, "cap is -inf"),
    # Sums and products that wrap around.
    ("kd_loss", {"starts": [INT64[1], 0]}, rf"starts\[0\] is {INT64[1]}; expected 0 to 4"),
    ("kd_loss", {"starts": [INT64[1] - 999, 0]}, r"starts\[0\] is 9223372036854774808"),
    ("gradient_gram", {"starts": [INT64[1], 0]}, rf"starts\[0\] is {INT64[1]}; expected 0 to 4"),
    (
        "merge_plan",
        {"targets": [torch.zeros(1)] * 4, "sources": [], "num_sources": 2**62},
        rf"there are {2**62} lists of sources",
    ),
    (
        "merge_plan",
        {"targets": [], "sources": [], "fill": [], "moments": [], "num_sources": 2**62},
        rf"there are {2**62} lists of sources",
    ),
    # Lists of classes.
    (
        "kd_loss",
        {"columns": [indices(), indices(5, 0, 5)]},
        r"columns\[1\] names class 5 twice; expected each class once",
    ),
    (
        "gradient_gram",
        {"columns": [indices(), indices(2, 2, 0)]},
        r"columns\[1\] names class 2 twice; expected each class once",
    ),
    ("kd_loss", {"starts": [4, 1]}, r"starts\[1\] is 1; expected 0 to 0"),
    (
        "kd_loss",
        {"columns": [torch.zeros(0), indices(5, 0, 2)]},
        r"columns\[0\] has shape \(0\) and dtype float32; expected contiguous int64",
    ),
    # Beyond what 32-bit columns hold, with rows that cost no memory.
    (
        "kd_loss",
        {"student": torch.zeros(1).expand(ROWS, 2**30 + 1)},
        f"student has {2**30 + 1} classes; expected 1 to {2**30}",
    ),
    # Merges.
    ("merge_", {"moments": [], "moment_weights": [1.0]}, "moment_weights has 1 numbers"),
    ("merge_", {"moments": [], "moment_weights": [1.0, math.nan]}, r"moment_weights\[1\] is nan"),
    ("merge_", {"fill": [1e39, 0.0, 0.0]}, r"fill is 1e\+39, which the dtype of targets\[0\] does"),
    ("merge_plan_free", {"plan": 2**40}, "there is no plan 1099511627776"),
]


@pytest.mark.parametrize(
    ("operator", "changes", "message"), FAULTS, ids=[f"{f[0]}-{i}" for i, f in enumerate(FAULTS)]
)
def test_a_fault_that_there_was(operator, changes, message):
    with pytest.raises(RuntimeError, match=message):
        call(operator, **changes)


@pytest.mark.parametrize("operator", ["merge_plan", "merge_check"])
@pytest.mark.parametrize("where", ["targets", "sources"])
def test_a_merge_between_memory_and_none(operator, where):
    """These have no fake: a meta tensor comes to C++, where its address was read."""
    tensors = [t.to("meta") for t in CALLS[operator]()[where]]
    devices = ("meta", "cpu") if where == "targets" else ("cpu", "meta")
    message = r"targets\[0\] is on {}, but sources\[0\]\[0\] is on {}; expected one device"
    with pytest.raises(RuntimeError, match=message.format(*devices)):
        call(operator, **{where: tensors})


def test_a_merge_without_memory():
    """There is nothing to do and nothing that could be shared, but no kernel to plan for either."""
    meta = {
        name: [t.to("meta") for t in value]
        for name, value in merge_().items()
        if name in ("targets", "sources")
    }
    call("merge_check", **meta)
    with pytest.raises(RuntimeError, match=r"targets\[0\] is on meta; expected cpu"):
        call("merge_plan", **meta)


@pytest.mark.parametrize("label", [INT64[0], -101, -1, CLASSES, 2**32, INT64[1]])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_label_outside_the_classes_is_an_error_whatever_reads_it(alpha, label):
    with pytest.raises(RuntimeError, match=rf"labels\[1\] is {label}; expected 0 to 5"):
        call("kd_loss", labels=indices(0, label, -100, 5), alpha=alpha)


@pytest.mark.parametrize("ignored", [INT64[0], -1, 2, CLASSES, INT64[1]])
def test_any_number_may_mean_that_a_row_is_ignored(ignored):
    labels = indices(0, 1, ignored, 5)
    loss, grad, _ = call("kd_loss", labels=labels, ignore_index=ignored, reduction=0)
    assert loss.tolist()[2] == 0 and grad[2].eq(0).all()


@pytest.mark.parametrize("temperature", [1e-18, 1e18])
@pytest.mark.parametrize("divergence", range(4))
def test_the_extreme_temperatures_give_finite_results(divergence, temperature):
    generator = torch.Generator().manual_seed(0)
    student, *teachers = (torch.randn(ROWS, n, generator=generator) for n in (CLASSES, 2, 3))
    params = {0: [], 1: [], 2: [0.5], 3: [1.0, 8.0]}[divergence]
    loss, grad, teacher_grads = call(
        "kd_loss", student=student, teachers=teachers, temperatures=[temperature] * 2,
        divergence=divergence, divergence_params=params,
    )  # fmt: skip
    assert all(t.isfinite().all() for t in (loss, grad, *teacher_grads))


@pytest.mark.parametrize("temperature", [1e-18, 1e18])
def test_the_extreme_temperatures_give_finite_results_of_the_other_losses(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(ROWS, CLASSES, generator=generator) for _ in range(2))
    loss, grad = call("dist_loss", student=student, teacher=teacher, temperature=temperature)
    gram = call(
        "gradient_gram", student=student, teachers=[teacher], columns=[], starts=[0],
        temperatures=[temperature],
    )  # fmt: skip
    assert all(t.isfinite().all() for t in (loss, grad, gram))


def test_a_beta_next_to_one_keeps_the_digits_of_the_gradient():
    """It is a multiple of 1 - beta, which float32 would make of 1e-7 the number 1.19e-7."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(ROWS, CLASSES, generator=generator) for _ in range(2))
    beta = 1 - 1e-7
    _, grad, _ = call(
        "kd_loss", student=student, teachers=[teacher], columns=[], starts=[0], temperatures=[1.0],
        labels=indices(0, 0, 0, 0), alpha=0.0, divergence=JS, divergence_params=[beta], reduction=2,
    )  # fmt: skip
    log_p, log_q = (x.double().log_softmax(1) for x in (student, teacher))
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
    p, ratio = log_p.exp(), log_p - log_m
    expected = (1 - beta) * p * (ratio - (p * ratio).sum(1, keepdim=True))
    torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-13)


def test_a_refused_merge_has_written_nothing():
    targets = merge_()["targets"]
    before = [t.clone() for t in targets]
    for change in ({"keep": math.nan}, {"moments": [0, 2]}, {"fill": [0.0, 0.0, 1e39]}):
        with pytest.raises(RuntimeError, match="; expected "):
            call("merge_", targets=targets, **change)
    assert all(torch.equal(a, b) for a, b in zip(targets, before, strict=True))


def test_a_plan_writes_nothing_before_it_is_run():
    """Rows that have no source and are no line of memory were filled when the plan was made."""
    target = torch.ones(4, 6)[:, ::2]
    run = MergePlan([target], [torch.zeros(1, 3)], fill=5.0)
    assert target.eq(1).all()
    run()
    assert target[0].eq(0).all() and target[1:].eq(5).all()
