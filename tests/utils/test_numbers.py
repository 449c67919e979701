"""Numbers from outside: kinds that pass, and what is said of the others."""

import math

import numpy as np
import pytest
import torch

from edufast.utils.numbers import (
    decimal,
    real_number,
    real_numbers,
    whole_number,
    whole_numbers,
)


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_whole_numbers_become_ints(value):
    assert type(whole_number("n", value)) is int and whole_number("n", value) == 3


@pytest.mark.parametrize("value", [1.0, math.nan, "3", None, [3], torch.ones(2), True])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ValueError, match=r"^n is .*; expected an integer$"):
        whole_number("n", value)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "n is 0; expected at least 1"), (2**63, f"n is {2**63}; expected at most {2**63 - 1}")],
)
def test_bounds_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        whole_number("n", value)
    assert whole_number("n", value, 0, 2**63) == value


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), torch.tensor(3.0)])
def test_real_numbers_become_floats(value):
    assert type(real_number("x", value)) is float and real_number("x", value) == 3


@pytest.mark.parametrize(
    "value", [-0.1, math.nan, math.inf, "3", None, [3], 10**400, torch.ones(2), True]
)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match=r"^x is .*; expected a finite number of at least 0$"):
        real_number("x", value)


def test_sequences_of_numbers():
    assert whole_numbers("n", np.arange(2), 0) == (0, 1) and real_numbers("x", [1, 2.5]) == (1, 2.5)
    for value in (3, "12", None):
        with pytest.raises(ValueError, match=r"^n is .*; expected a sequence of integers$"):
            whole_numbers("n", value)
        with pytest.raises(ValueError, match=r"^x is .*; expected a sequence of numbers$"):
            real_numbers("x", value)


def test_decimal_digits_are_a_number_unless_there_are_too_many():
    assert [decimal(text) for text in ("0", "12", "９")] == [0, 12, 9]
    assert {decimal(text) for text in ("", "-1", "²", "1.0", " 1", "9" * 5000)} == {None}
