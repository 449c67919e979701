"""Files that people write: read, changed by key, and checked."""

from typing import Literal

import pytest

from edufast.experiments.schema import (
    Section,
    check,
    differences,
    override,
    parse_value,
    read_section,
    written_value,
    written_yaml,
)
from edufast.utils.errors import UserError


class Inner(Section):
    rate: float = 0.1


class Outer(Section):
    name: str
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()


class Free(Section):
    values: dict[str, int]


def test_differences_name_keys_and_both_values():
    first = Outer(name="a", items=(Inner(), Inner(rate=3)))
    assert differences(first, first) == ""
    other = Outer(name="b", items=(Inner(), Inner(rate=4)))
    assert differences(first, other) == "name was 'a', is 'b'; items.1.rate was 3.0, is 4.0"
    assert "items was [{'rate': 0.1}, {'rate': 3.0}], is []" in differences(first, Outer(name="a"))


def test_of_many_differences_three_are_told():
    many, others = ({f"k{i}": i + j for i in range(5)} for j in (0, 1))
    told = differences(Free(values=many), Free(values=others))
    assert told.endswith("values.k2 was 2, is 3; and 2 more") and "k3" not in told


def test_a_section_is_read_from_its_file(tmp_path):
    (tmp_path / "f.yaml").write_text("name: a\nitems: [{rate: 2}]\n")
    assert read_section(Outer, tmp_path / "f.yaml") == Outer(name="a", items=(Inner(rate=2),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "f.yaml: not valid YAML"),
        (b"\xff", "f.yaml: not valid YAML"),
        (b"- name", "f.yaml: found list; expected keys and values"),
        (b"inner: {}", "f.yaml: name: missing; it has no default"),
        (b"nmae: a", "f.yaml: nmae: unknown key; did you mean 'name'"),
        (b"name: a\nzzz: 1", "f.yaml: zzz: unknown key; expected one of inner, items, name"),
        (b"name: a\ninner: {rat: 1}", "f.yaml: inner.rat: unknown key; did you mean 'rate'"),
        (b"name: a\nitems[0]: 1", "f.yaml: items[0]: unknown key; did you mean 'items'"),
        (b"name: a\ninner: {literal: 1}", "f.yaml: inner.literal: unknown key"),
        (b"name: a\ninner: {rate: 1,\n rate: 2}", "key 'rate' is given twice"),
        (b"name: a\n? [b]\n: 1\n? [b]\n: 2", "not valid YAML"),
        (b"name: a\ninner: {rate: .nan}", "found '.nan'; expected a finite number"),
        (b"name: a\ninner: {rate: 1:30}", "found '1:30'; expected a finite number"),
        (b"name: a\ninner: {rate: -.inf}", "found '-.inf'; expected a finite number"),
        (b"name: a\ninner: {rate: 9223372036854775808}", "expected a finite number of at most 64"),
        (b"name: a\ninner: {rate: 0x" + b"f" * 5000 + b"}", "expected a finite number"),
        (b"name: a\ninner: {rate: " + b"1" * 5000 + b"}", "f.yaml: not valid YAML"),
        (b"name: " + b"[" * 3000, "f.yaml: not valid YAML: nested too deep"),
        (b"name: a\ninner: {rate: 2024-13-01}", "f.yaml: not valid YAML: month"),
        (b"name: !!bool x", "f.yaml: not valid YAML"),
        (b"name: [" + b"a, " * 5000 + b"]", "f.yaml: name: found ['a', 'a',"),
        (b'name: a\n"x\\ny": 1', "f.yaml: x y: unknown key"),
        (b"name: a\nitems: [{rate: x}]", "f.yaml: items.0.rate: found 'x'; input should be"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path, content, message):
    (tmp_path / "f.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_section(Outer, tmp_path / "f.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_key_given_twice_is_told_with_its_line(tmp_path):
    (tmp_path / "f.yaml").write_text("name: a\ninner:\n  rate: 1\n  rate: 2\n")
    with pytest.raises(UserError, match=r"key 'rate' is given twice.* line 4"):
        read_section(Outer, tmp_path / "f.yaml")


def test_a_merged_key_may_be_given_again():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n"
    assert parse_value(text, "f")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_section_takes_finite_numbers_only(rate):
    with pytest.raises(UserError, match=r"f: rate: found (nan|inf); input should be a finite"):
        check(Inner, {"rate": rate}, "f")


class Typed(Section):
    number: int = 0
    share: float | None = None
    shares: list[float] | None = None
    sizes: tuple[int, int] = (1, 2)
    truth: bool = False
    truths: list[bool] | None = None
    mode: int | Literal[True] = 0
    inner: Inner | None = None


@pytest.mark.parametrize("key", ["number", "share"])
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(key, value):
    with pytest.raises(UserError, match=rf"f: {key}: found {value}; expected a number"):
        check(Typed, {key: value}, "f")


@pytest.mark.parametrize("key", ["shares", "sizes"])
def test_nor_are_they_in_lists(key):
    with pytest.raises(UserError, match=rf"f: {key}: found \[1, True\]; expected numbers"):
        check(Typed, {key: [1, True]}, "f")


def test_true_and_false_are_taken_where_they_are_meant():
    meant = {"truth": True, "truths": [True], "mode": True}
    assert check(Typed, meant, "f") == Typed(truth=True, truths=[True], mode=True)


def test_a_value_in_the_place_of_a_section_is_told_with_its_keys():
    with pytest.raises(
        UserError, match=r"f: inner: found '64k'; expected a section with keys such as .*rate"
    ):
        check(Typed, {"inner": "64k"}, "f")


def test_values_are_set_by_key():
    content = {"name": "a", "items": [{"rate": 1}]}
    override(content, "inner.rate", 3, "--set")
    override(content, "items.0.rate", 4, "--set")
    override(content, "name", "b", "--set")
    checked = check(Outer, content, "f")
    assert (checked.name, checked.inner.rate, checked.items[0].rate) == ("b", 3, 4)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("items.1.rate", "--set: 1 is not a position in a list of 1 entries"),
        ("items.x", "--set: x is not a position in a list of 1 entries"),
        ("name.rate", "--set: name is not a section"),
        ("numbers.0.rate", "--set: 0 is not a section"),
        ("a\nb.c", r"--set: key 'a\\nb.c': expected names with dots between them"),
        ("items.²", "--set: ² is not a position in a list of 1 entries"),
        ("items." + "1" * 5000, "is not a position in a list of 1 entries"),
        ("x." * 2000 + "x", "--set: 2001 levels; expected at most 16"),
    ],
)
def test_a_key_that_leads_nowhere_is_told(key, message):
    with pytest.raises(UserError, match=message):
        override({"name": "a", "items": [{}], "numbers": [16]}, key, 1, "--set")


@pytest.mark.parametrize("text", ["1e3", "1E+3", "1.5e3", "-2e-3", "1e-30"])
def test_numbers_with_an_exponent_are_numbers(text):
    """YAML 1.1 takes them for text."""
    assert parse_value(text, "--set") == float(text)
    assert parse_value(f"[{text}, 1e, e3, 1e3a]", "--set") == [float(text), "1e", "e3", "1e3a"]


@pytest.mark.parametrize("name", ["1e3", "-1.5E3", "1:30", "0x10", "no", "\U0001f600"])
def test_text_that_looks_like_something_else_stays_text_in_a_file(tmp_path, name):
    before = Outer(name=name)
    (tmp_path / "f.yaml").write_text(written_yaml(before), "utf-8")
    assert read_section(Outer, tmp_path / "f.yaml") == before


def test_values_are_yaml():
    assert parse_value("[1, a]", "--set") == [1, "a"]
    # Numbers as seq -w writes them are no octal ones.
    assert parse_value("[0, 007, 010, -012, 0x10]", "--set") == [0, 7, 10, -12, 16]
    with pytest.raises(UserError, match="--set x=: not valid YAML"):
        parse_value("[", "--set x=")


@pytest.mark.parametrize(
    "text", ["\U0001f600", "not UTF-8: \udcff", "a: b # c", "1e3", "'\"\\\n\t é" * 50]
)
def test_any_text_can_be_written_as_a_value(text):
    assert parse_value(written_value(text), "--data") == text
