"""The lists of slow, thorough and sampled tests are about tests that exist."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.tiers import SAMPLED, SLOW, THOROUGH, fits, sampled

TESTS = Path(__file__).parent
NAMES = [
    f"{path.relative_to(TESTS).as_posix()}::{name}"
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("pattern", [*SLOW, *THOROUGH, *SAMPLED])
def test_a_pattern_fits_some_test(pattern: str) -> None:
    assert any(fnmatch(name, pattern) for name in NAMES)


def test_most_tests_are_not_slow_and_few_are_thorough() -> None:
    assert sum(fits(name, SLOW) for name in NAMES) < len(NAMES) / 4
    assert sum(fits(name, THOROUGH) for name in NAMES) < len(NAMES) / 50


def test_a_sample_has_every_test_and_values_of_all_parameters() -> None:
    test = "tests/ops/test_merge_cuda.py::test_cuda_gives"
    assert sampled(f"{test}[0-0]", first=True)
    grid = [
        (a, b) for a in range(30) for b in range(30) if sampled(f"{test}[{a}-{b}]", first=False)
    ]
    assert 200 < len(grid) < 400
    assert {a for a, _ in grid} == {b for _, b in grid} == set(range(30))


def test_what_is_in_no_list_is_whole() -> None:
    assert all(sampled(f"tests/ops/test_kd_loss.py::test_new[{i}]", first=False) for i in range(9))
    assert not sampled(f"tests/{THOROUGH[1].replace('*', '')}", first=True)
