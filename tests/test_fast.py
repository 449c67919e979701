"""The list of slow tests is about tests that exist."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.fast import SLOW

TESTS = Path(__file__).parent
NAMES = [
    f"{path.relative_to(TESTS).as_posix()}::{name}"
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_of_slow_tests_fits_some(pattern: str) -> None:
    assert any(fnmatch(name, pattern) for name in NAMES)


def test_most_tests_are_not_slow() -> None:
    slow = [name for name in NAMES if any(fnmatch(name, pattern) for pattern in SLOW)]
    assert len(slow) < len(NAMES) / 4
