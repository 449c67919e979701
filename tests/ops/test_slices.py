"""ClassSlices: which classes a teacher's logits stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edufast.ops import ClassSlices


def test_kinds_of_slices():
    s = ClassSlices.of([(0, 3), range(2, 5), [4, 0], torch.tensor([1], dtype=torch.int32)], 5)
    assert s.starts == (0, 2, 0, 0) and s.sizes == (3, 3, 2, 1)
    assert [c.tolist() for c in s.columns] == [[], [], [4, 0], [1]]
    assert all(c.dtype == torch.int64 for c in s.columns)
    logits = torch.arange(10.0).view(2, 5)
    assert s.select(logits, 1).tolist() == [[2, 3, 4], [7, 8, 9]]
    assert s.select(logits, 2).tolist() == [[4, 0], [9, 5]]


def test_ranges_alone_need_no_columns():
    assert ClassSlices.of([(0, 3), (2, 5)], 5).columns == ()


def test_a_range_with_a_step_is_a_list():
    assert ClassSlices.of([range(0, 6, 2)], 6).columns[0].tolist() == [0, 2, 4]


@given(st.permutations(range(7)), st.integers(1, 7), st.integers(0, 6))
def test_local_label_is_the_position_in_the_slice(order, size, label):
    classes = order[:size]
    local, inside = ClassSlices.of([classes], 7).local_label(torch.tensor([label]), 0)
    assert inside.item() == (label in classes)
    assert local.item() == (classes.index(label) if label in classes else 0)


@given(st.integers(0, 6), st.integers(1, 7), st.integers(0, 6))
def test_local_label_in_a_range(start, size, label):
    stop = min(7, start + size)
    local, inside = ClassSlices.of([(start, stop)], 7).local_label(torch.tensor([label]), 0)
    assert inside.item() == (start <= label < stop)
    assert local.item() == (label - start if inside.item() else 0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((3, 3), r"slices\[1\] is \(3, 3\)"),
        ((-1, 3), "0 <= start < stop <= 5"),
        ((0, 6), "0 <= start < stop <= 5"),
        ([], "at least one class"),
        ([0, 5], r"names class 5; expected classes in \[0, 5\)"),
        ([-1, 2], "names class -1"),
        ([1, 2, 1], "names a class twice"),
        (torch.tensor([0.5]), "dtype torch.float32"),
        (torch.zeros(2, 2, dtype=torch.int64), r"shape \(2, 2\)"),
    ],
)
def test_errors_name_the_slice(item, message):
    with pytest.raises(ValueError, match=message):
        ClassSlices.of([(0, 5), item], 5)
