"""JSON that is damaged in any way is one kind of error."""

import json

import pytest

from edufast.utils.json_text import parse_json


def test_it_is_read():
    assert parse_json('{"a": [1, null]}') == parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1", b"{"])
def test_endless_nesting_is_damage_like_any_other(text):
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


def test_numbers_of_thousands_of_digits_and_other_encodings_are_value_errors():
    for text in ("9" * 5000, b"\xff\xfe\xff"):
        with pytest.raises(ValueError):
            parse_json(text)
