"""Files that people write in YAML: read, changed by key, and checked with one-line errors."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from edufast.utils.errors import UserError, one_line


class Section(BaseModel):
    """Part of a file: its keys, their types and defaults. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Pydantic takes ``true`` for 1, in lists, too."""
        if any(isinstance(each, bool) for each in (value if isinstance(value, list) else [value])):
            kinds = set(_kinds(cls.model_fields[field.field_name or ""].annotation))
            if kinds & {int, float} and bool not in kinds:
                raise ValueError(f"expected {'a number' if isinstance(value, bool) else 'numbers'}")
        return value


SectionType = TypeVar("SectionType", bound=Section)

_DEEPEST = 16  # levels of a dotted key
_TOLD = 3  # largest number of changed keys in a message

# Messages quote values from outside, which may be of any length.
_quote = reprlib.Repr()
_quote.maxstring = _quote.maxother = 80


class _Loader(yaml.SafeLoader):
    """YAML's plain values, without what is valid YAML but never meant: a key given twice, of which
    YAML keeps the last, numbers to the base 60 (1:30), and those that no setting can have."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {quoted(key.value)} is given twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, str(key.value)))
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        read = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        # 010 is ten to everybody but YAML 1.1, for which it is 8 (while 08 is text).
        number: int | float = int(node.value) if _PADDED.match(node.value) else read(node)
        fits = abs(number) < 2**63 if isinstance(number, int) else math.isfinite(number)
        if not fits or ":" in node.value:
            raise yaml.MarkedYAMLError(
                problem=f"found {quoted(node.value)}; expected a finite number of at most 64 bits",
                problem_mark=node.start_mark,
            )
        return number


class _Dumper(yaml.SafeDumper):
    """Puts in quotation marks what :class:`_Loader` would take for a number."""


_FLOAT = "tag:yaml.org,2002:float"
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor(_FLOAT, _Loader.construct_number)
_PADDED = re.compile(r"[-+]?0[0-9_]+$")
# 1e-3 is a number to everybody but YAML 1.1, which wants 1.0e-3.
_WITH_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver(_FLOAT, _WITH_EXPONENT, list("-+0123456789"))
_Dumper.add_implicit_resolver(_FLOAT, _WITH_EXPONENT, list("-+0123456789"))


def quoted(value: object) -> str:
    """``value`` as messages show it: its representation, shortened to about 80 characters."""
    return _quote.repr(value)


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """The keys and values of a YAML document; ``source`` is named in errors.

    Raises:
        UserError: it is no YAML, or something else than keys and values.
    """
    content = parse_value(text, source)
    if not isinstance(content, dict):
        raise UserError(f"{source}: found {type(content).__name__}; expected keys and values")
    return content


def written_yaml(section: Section) -> str:
    """``section`` as a document that :func:`read_section` reads."""
    content = section.model_dump(mode="json")
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_section(model: type[SectionType], path: Path) -> SectionType:
    """A file that was written by this package, checked as if a user had.

    Raises:
        UserError: the first thing wrong with it.
    """
    return check(model, read_yaml(read_text(path), str(path)), str(path))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}; expected UTF-8") from error


def check(model: type[SectionType], content: dict[str, Any], source: str) -> SectionType:
    """``content`` as a ``model``; ``source`` is named in errors.

    Raises:
        UserError: the first thing wrong with it: the key, what was found and what was expected.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(" ".join(f"{source}: {_explain(error, model, content)}".split())) from error


def differences(before: Section, after: Section) -> str:
    """Which keys have other values in ``after``: at most three of them, in words."""
    pairs = changed(before, after)
    told = [f"{key} was {quoted(old)}, is {quoted(new)}" for key, old, new in pairs[:_TOLD]]
    return "; ".join(told) + (f"; and {len(pairs) - _TOLD} more" if len(pairs) > _TOLD else "")


def changed(before: Section, after: Section) -> list[tuple[str, Any, Any]]:
    """Dotted keys that have other values in ``after``, and both values. Lists of another length are
    values."""
    return _changed("", before.model_dump(mode="json"), after.model_dump(mode="json"))


def _changed(key: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [(key, before, after)]
    found = []
    for name in {**before, **after}:
        inner = f"{key}.{name}" if key else str(name)
        found += _changed(inner, before.get(name), after.get(name))
    return found


def parse_value(text: str, source: str) -> Any:
    """A value as written behind ``key=``, in YAML.

    Raises:
        UserError: it is no YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise UserError(f"{source}: not valid YAML: nested too deep") from error
    # PyYAML lets through what Python says about values such as 2024-13-01 or !!bool x.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{source}: not valid YAML: {one_line(error)}") from error


def written_value(text: str) -> str:
    """``text`` as :func:`parse_value` reads it, in ASCII.

    Not in JSON, which writes letters beyond 16 bits as two.
    """
    return yaml.safe_dump(text, default_style='"', width=math.inf).rstrip()


def override(content: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set ``key``, such as ``training.lr`` or ``teachers.0.model``, in place.

    Raises:
        UserError: a position that a list does not have, a key inside something that has none, or
            more levels than any key has.
    """
    if not key.isprintable():
        raise UserError(f"{source}: key {quoted(key)}: expected names with dots between them")
    *path, last = key.split(".")
    if len(path) >= _DEEPEST:
        raise UserError(f"{source}: {len(path) + 1} levels; expected at most {_DEEPEST}")
    section: Any = content
    for name in path:
        section = _enter(section, name, source)
        if not isinstance(section, (dict, list)):
            raise UserError(f"{source}: {name} is not a section")
    if isinstance(section, list):
        _enter(section, last, source)
        section[int(last)] = value
    else:
        section[last] = value


def _enter(section: Any, name: str, source: str) -> Any:
    """The item ``name`` of a section or list of sections; a section that is not there begins."""
    if isinstance(section, list):
        if name not in map(str, range(len(section))):
            raise UserError(
                f"{source}: {name} is not a position in a list of {len(section)} entries"
            )
        return section[int(name)]
    if section.get(name) is None:
        section[name] = {}
    return section[name]


def _explain(error: ValidationError, model: type[BaseModel], content: dict[str, Any]) -> str:
    """The first error in one line: key, value found, value expected."""
    # A mistyped key is reported as missing, too: the unknown key says more.
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    key = _key(first["loc"], content)
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known)
        hint = f"did you mean {close[0]!r}?" if close else "expected one of " + ", ".join(known)
        return f"{key}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{key}: missing; it has no default"
    if first["type"] == "model_type":
        keys = ", ".join(_known_keys(model, first["loc"]))
        return f"{key}: found {quoted(first['input'])}; expected a section with keys such as {keys}"
    message = first["msg"].removeprefix("Value error, ")
    close = difflib.get_close_matches(str(first["input"]), re.findall(r"'([^']+)'", message))
    hint = f"did you mean {close[0]!r}? " if first["type"] == "literal_error" and close else ""
    return f"{key}: found {quoted(first['input'])}; {hint}{message[0].lower()}{message[1:]}"


def _kinds(annotation: Any) -> Iterator[type]:
    """The types in an annotation, those of its literals included."""
    if isinstance(annotation, type):
        yield annotation
    elif isinstance(annotation, bool):
        yield bool
    for argument in get_args(annotation):
        yield from _kinds(argument)


def _key(location: Sequence[int | str], content: Any) -> str:
    """The dotted key at ``location``. A union reports every branch; the names of these are no keys,
    unless ``content`` has them."""
    parts = []
    for part in location:
        there = isinstance(content, dict) and part in content
        if there or not _is_branch(part):
            parts.append(str(part))
            in_list = isinstance(content, list) and isinstance(part, int) and part < len(content)
            content = content[part] if there or in_list else None
    return ".".join(parts)


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part == "literal")


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    section = model
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    return sorted(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as ``list[GradeSection] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section_of(argument) for argument in get_args(annotation))
    return next((section for section in inner if section is not None), None)
