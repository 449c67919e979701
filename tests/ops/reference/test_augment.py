"""The reference of augment: what a view's number says, and the constants in float32."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from edufast.ops.reference.augment import Augment, constants, reference
from tests.ops.augment_cases import assert_same_bits, cases, expected, random_case


@given(p=cases)
@settings(max_examples=200, deadline=None)
def test_it_is_padding_cropping_mirroring_and_normalising(p: Augment) -> None:
    assert_same_bits(reference(*p), expected(p))


def test_each_number_is_a_view_of_its_own() -> None:
    count = random_case(pad=2).view_count
    p = random_case(count=1, batch=count, pad=2)._replace(views=torch.arange(count))
    p = p._replace(index=torch.zeros(count, dtype=torch.int64))
    assert count == 50 and len(reference(*p).unique(dim=0)) == 50


def test_what_is_out_of_range_where_nobody_may_look_becomes_nan() -> None:
    p = random_case(batch=6)
    p.index[1], p.index[2] = -1, 9
    p.views[3], p.views[4] = -1, 162
    made = reference(*p)
    whole = made.flatten(1)
    assert whole.isnan().all(1).tolist() == [False, True, True, True, True, False]
    assert not whole[[0, 5]].isnan().any()
    none = p._replace(images=p.images[:0])
    assert reference(*none).isnan().all()


def test_constants_are_rounded_to_float32_before_they_are_divided() -> None:
    mean, scale = constants([0.1], [0.3])
    assert mean.tolist() == [float(np.float32(255 * 0.1))]
    assert scale.tolist() == [float(np.float32(1) / np.float32(255 * 0.3))]


WRONG = [
    ({"images": torch.zeros(2, 8, 8, 3)}, "images has shape .*; expected contiguous uint8"),
    ({"images": torch.zeros(2, 8, 8, 5, dtype=torch.uint8)}, "C from 1 to 4"),
    ({"images": torch.zeros(2, 0, 8, 3, dtype=torch.uint8)}, "images has shape"),
    ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8).permute(0, 2, 3, 1)}, "contiguous"),
    (
        {"images": torch.zeros(1, dtype=torch.uint8).expand(0, 2**28, 2, 3)},
        r"images has shape .*; expected at most 2\^28 bytes each",
    ),
    ({"index": torch.zeros(20)}, r"index has shape \(20,\) and dtype torch.float32; expected"),
    ({"views": torch.zeros(20, 1).long()}, r"views has shape \(20, 1\)"),
    ({"views": torch.zeros(40).long()[::2]}, "views has shape .*; expected contiguous"),
    ({"views": torch.zeros(19).long()}, "views has 19 numbers; expected 20, like index"),
    ({"index": torch.zeros(20, device="meta").long()}, "index is on meta; expected cpu"),
    ({"pad": -1}, "pad is -1; expected 0 to 16383"),
    ({"pad": 2**14}, "pad is 16384; expected 0 to 16383"),
    ({"mean": [0.0, 0.0]}, "mean has 2 numbers; expected 3, like the channels of images"),
    ({"mean": [0.0, 0.0, math.nan]}, r"mean\[2\] is nan; expected a number from"),
    ({"std": [1.0, 0.0, 1.0]}, r"std\[1\] is 0.0; expected a number from 1e-18 to 1e\+18"),
    ({"dtype": torch.float64}, "dtype is torch.float64; expected float32, bfloat16 or float16"),
    ({"index": torch.full((20,), 9)}, r"index\[0\] is 9; expected 0 to 8"),
    ({"views": torch.tensor([0] * 19 + [162])}, r"views\[19\] is 162; expected 0 to 161"),
    ({"views": torch.tensor([0] * 19 + [-1])}, r"views\[19\] is -1; expected 0 to 161"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_arguments_are_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        random_case()._replace(**change).check()
    assert "\n" not in str(error.value)
