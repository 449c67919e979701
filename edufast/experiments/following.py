"""A run as another process writes it: its event log, read on from where it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edufast.experiments.events import RemainingEvent
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.run_log import READERS, RunLog, collect
from edufast.experiments.runs import State, is_finished
from edufast.training.events import StepEvent
from edufast.utils.event_log import Event
from edufast.utils.json_text import parse_json
from edufast.utils.lock import is_locked

_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    **READERS,
    **{event.kind: TypeAdapter(event) for event in (StepEvent, RemainingEvent)},
}


@dataclass(frozen=True)
class Snapshot:
    """What there is to see of a run.

    Attributes:
        state: see :class:`edufast.experiments.runs.RunState`.
        log: what happened.
        step: the last one; None: there was none yet.
        remaining: what was last said of the rest of the run; None: nothing, or it has ended.
    """

    state: State
    log: RunLog
    step: StepEvent | None
    remaining: RemainingEvent | None


class RunFollower:
    """Follows the run in ``path``, which it leaves alone: ``follower.snapshot()``.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, path: Path) -> None:
        self._folder = RunFolder(path)
        self._config = self._folder.read_config()
        self._begin()

    def _begin(self) -> None:
        self._read_up_to = 0  # bytes of the log
        self._events: list[Event] = []
        self._last: dict[type[Event], Any] = {}  # of steps and of what remains

    def snapshot(self) -> Snapshot:
        """What there is to see now."""
        running = is_locked(self._folder.path)  # first: what it writes before it ends is read, too
        self._read_on()
        log = collect(self._events)
        finished = is_finished(self._folder, self._config, log)
        return Snapshot(
            "running" if running else "finished" if finished else "stopped",
            log,
            self._last.get(StepEvent),
            self._last.get(RemainingEvent) if running else None,
        )

    def _read_on(self) -> None:
        """Read the lines that were completed since. Those that are damaged, or of another version,
        are left out."""
        path = self._folder.metrics
        if not path.exists():
            return
        if path.stat().st_size < self._read_up_to:  # it begins again
            self._begin()
        with open(path, "rb") as file:
            file.seek(self._read_up_to)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read_up_to += len(lines)
        for line in lines.splitlines():
            event = _parsed(line)
            if isinstance(event, (StepEvent, RemainingEvent)):
                self._last[type(event)] = event
            elif event is not None:
                self._events.append(event)


def _parsed(line: bytes) -> Event | None:
    try:
        content = parse_json(line)
        event: Event = _ADAPTERS[content["event"]].validate_python(content)
    except (ValueError, KeyError, TypeError, ValidationError):
        return None
    return event
