"""Class ids and positions, and back."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edufast.data.class_map import ClassMap

SLICES = st.lists(
    st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=5
).filter(lambda slices: len({c for ids in slices for c in ids}) == sum(map(len, slices)))


@given(SLICES)
def test_every_view_of_the_map_agrees(slices: list[list[int]]) -> None:
    class_map = ClassMap.of(*slices)
    positions, slice_of = class_map.positions(), class_map.slice_of()
    assert [positions[c].item() for c in class_map.ids] == list(range(len(class_map)))
    assert (positions >= 0).sum() == len(class_map)
    for position, c in enumerate(class_map.ids):
        assert class_map.position_of[c] == position
        assert c in slices[slice_of[position]]
    assert [class_map.ids[position] for position in class_map.by_id] == sorted(class_map.ids)


def test_slices_of_teachers_are_ranges_where_they_can_be() -> None:
    class_map = ClassMap.of([7, 3], [5])
    slices = class_map.class_slices({"first": [7, 3], "second": [5, 7]})
    assert slices.starts[0] == 0 and slices.sizes == (2, 2)
    logits = torch.tensor([[10.0, 20.0, 30.0]])
    assert slices.select(logits, 0).tolist() == [[10.0, 20.0]]
    assert slices.select(logits, 1).tolist() == [[30.0, 10.0]]
    scattered = ClassMap.of([2, 1, 0]).class_slices({"scattered": [0, 2]})
    assert scattered.select(logits, 0).tolist() == [[30.0, 10.0]]
    with pytest.raises(ValueError, match="third knows class 4, which is not among the 3"):
        class_map.class_slices({"third": [4]})


@pytest.mark.parametrize("slices", [(), ((),), ((1, 1),), ((1, 2), (2,))])
def test_no_class_and_a_class_twice_are_refused(slices: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="expected at least one class, each once"):
        ClassMap(slices)


def test_maps_are_values() -> None:
    class_map = ClassMap.of(range(3), (), [5])
    assert class_map == ClassMap(((0, 1, 2), (5,))) and class_map.by_id == (0, 1, 2, 3)
    assert pickle.loads(pickle.dumps(class_map)) == class_map
