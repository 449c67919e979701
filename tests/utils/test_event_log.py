"""The event log: a line for each event, whole ones only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from edufast.utils.event_log import Event, EventLog


@dataclass(frozen=True, kw_only=True)
class Seen(Event):
    kind: ClassVar[str] = "seen"
    x: float | None
    note: str | None = None


def test_a_line_cut_short_is_dropped_when_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    EventLog(path).write(Seen(x=1))
    with open(path, "a") as file:
        file.write('{"event": "seen", "x')
    EventLog(path).write(Seen(x=2))
    assert path.read_text() == '{"event": "seen", "x": 1}\n{"event": "seen", "x": 2}\n'


def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    (tmp_path / "log").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        log.write(Seen(x=1))
    assert caught.value.filename == str(tmp_path / "log")


def test_without_a_path_nothing_is_kept() -> None:
    EventLog().write(Seen(x=1))


def test_optional_fields_are_left_out_where_nothing_is_known(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.write(Seen(x=None))
    log.write(Seen(x=None, note="now"))
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [{"event": "seen", "x": None}, {"event": "seen", "x": None, "note": "now"}]
