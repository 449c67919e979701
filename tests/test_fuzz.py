"""Files that were changed at random are read, or refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import TARGETS, Target

pytestmark = pytest.mark.filterwarnings("ignore:.*is damaged and left out")
KINDS = ("put", "insert", "cut", "twice", "flip")
PLACE = st.floats(0, 1, exclude_max=True)


def changed(content: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, first, second, other in changes:
        start, end = sorted(int(len(content) * place) for place in (first, second))
        part = content[start:end]
        replaced = {
            "put": other,
            "insert": other + part,
            "cut": b"",
            "twice": part + part,
            "flip": bytes([part[0] ^ 1 << len(other) % 8]) + part[1:] if part else b"",
        }[kind]
        content = content[:start] + replaced + content[end:]
    return content


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        PLACE,
        PLACE,
        st.binary(max_size=9),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module", params=TARGETS)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: Any
) -> Iterator[tuple[Target, Path, Any]]:
    target, folder = TARGETS[request.param], tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDUFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        target.write(folder)
        yield target, folder, target.read(folder)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES)
def test_it_is_read_or_refused(
    written: tuple[Target, Path, Any], tmp_path_factory: Any, changes: Any
) -> None:
    target, original, expected = written
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(original, folder, dirs_exist_ok=True)
    file = folder / target.path
    file.write_bytes(changed(file.read_bytes(), changes))
    target.check(folder, expected)
    shutil.rmtree(folder)
