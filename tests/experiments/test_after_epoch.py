"""What a run does after every epoch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edufast.experiments.after_epoch import AfterEpoch


def recorder(calls: list[Any], note: str) -> Any:
    def record(*arguments: Any) -> str:
        calls.append(arguments)
        return note

    return record


@pytest.mark.parametrize(
    ("left", "usable", "note"),
    [("1 min left", "usable", "1 min left, usable"), ("1 min left", "", "1 min left"),
     ("", "usable", "usable"), ("", "", "")],
)  # fmt: skip
def test_a_note_says_what_there_is_to_say(left, usable, note):
    calls: list[Any] = []
    after_epoch = AfterEpoch(
        SimpleNamespace(offer=recorder(calls, usable)),
        SimpleNamespace(after_epoch=recorder(calls, left)),
    )
    school = object()
    assert after_epoch.hook("resnet8")(school) == note
    assert calls == [(school,), (school, "resnet8")]


def test_what_is_not_to_be_kept_is_not_offered():
    calls: list[Any] = []
    after_epoch = AfterEpoch(
        SimpleNamespace(offer=recorder(calls, "usable")),
        SimpleNamespace(after_epoch=recorder([], "1 min left")),
    )
    assert after_epoch.hook(None)(object()) == "1 min left" and not calls


def test_without_anything_to_do_nothing_is_said():
    assert AfterEpoch().hook("resnet8")(object()) == ""
