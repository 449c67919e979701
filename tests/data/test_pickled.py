"""Pickles of plain data and arrays are read, and nothing in them is called."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from edufast.data.pickled import unpickle
from tests.data.published import pickled


def test_pickled_arrays_are_told_not_made():
    """Neither sub-modules of NumPy, nor strange states of an array, get to NumPy."""
    array = unpickle(pickled(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert np.array_equal(array.to_uint8(), [[0, 1, 2], [3, 4, 5]])
    for wrong in (np.zeros(2), np.zeros((2, 2), np.uint8).T.copy("F"), np.array([{}])):
        with pytest.raises(ValueError, match="expected an array of bytes in C order"):
            unpickle(pickled(wrong)).to_uint8()
    array.state = (1, (9, 9), *array.state[2:])
    with pytest.raises(ValueError, match="reshape"):
        array.to_uint8()
    array.state = None
    with pytest.raises(ValueError, match="expected an array"):
        array.to_uint8()


def test_a_pickle_cut_anywhere_is_refused():
    whole = pickled({"labels": [3, 4], "data": np.zeros((2, 5), np.uint8)})
    assert unpickle(whole)[b"labels"] == [3, 4]
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            unpickle(whole[:length])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_whatever_the_protocol(protocol):
    content = {1: [1, 2], (2, 3): {4: (None, 1.5, True)}}
    assert unpickle(pickle.dumps(content, protocol=protocol)) == content
