"""The event log of a run: one JSON object per line, appended as events happen."""

from __future__ import annotations

import json
import os
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from edufast.utils.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; one line of the log: its kind, then its fields in order."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The content of the line, without the optional fields that are None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if not self._unset(f)}
        return {"event": self.kind, **values}

    def _unset(self, field: Field[Any]) -> bool:
        return field.default is None and getattr(self, field.name) is None


class EventLog:
    """Appends events to the file ``path``; without a path, events are discarded.

    Every line is flushed when it is written, so no event is lost when the run is interrupted. A
    partial last line, left by a crash, is removed when the log is opened again.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._drop_partial_line()

    def _drop_partial_line(self) -> None:
        assert self._path is not None
        content = self._path.read_bytes()
        if content and not content.endswith(b"\n"):
            with atomic_write(self._path) as temporary:
                temporary.write_bytes(content[: content.rfind(b"\n") + 1])

    def write(self, event: Event) -> None:
        """Append ``event``."""
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(event.to_dict()) + "\n")
