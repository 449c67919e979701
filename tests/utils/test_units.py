"""Sizes and times as people write them."""

from __future__ import annotations

import pytest

from edufast.utils.units import parse_bytes, parse_milliseconds


@pytest.mark.parametrize(
    ("text", "count"), [("131072", 131072), ("128k", 131072), (" 2M ", 2**21), ("0", 0)]
)
def test_bytes_have_units_of_1024(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(("text", "count"), [("5ms", 5.0), ("0.25", 0.25), ("12 ms", 12.0)])
def test_milliseconds_may_say_so(text: str, count: float) -> None:
    assert parse_milliseconds(text) == count


@pytest.mark.parametrize("text", ["", "k", "1.5k", "-1", "1G", "1 k", "٣", "9" * 5000])
def test_other_sizes_are_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected bytes, such as 131072, 128k or 1M$"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "ms", "5s", "-1ms", "nan", "inf", "9" * 5000])
def test_other_times_are_refused_likewise(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected milliseconds, such as 5ms$"):
        parse_milliseconds(text)
