"""The event log of a run: one JSON object a line, appended as things happen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from edufast.utils.files import atomic_write, naming


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, as one line of the log: its kind, then its fields in order."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """What the line holds: every field but those that default to None and are None."""
        optional = {field.name for field in fields(self) if field.default is None}
        values = asdict(self).items()
        return {"event": self.kind} | {
            k: v for k, v in values if v is not None or k not in optional
        }


Listener = Callable[[Event], None]


def _nothing() -> None:
    """Not a lambda, which cannot be pickled."""


class EventLog:
    """Appends events to ``path``, and passes them to listeners.

    Every line is flushed as it is written, so that neither a reader nor an interruption misses
    one. A last line cut short by a crash is dropped when the run goes on.

    Args:
        path: of the log; None: no file is written.
        listeners: each is called with every event, in order, once its line is written. What they
            raise ends the training.
        check: called before each line; what it raises ends the training, too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        listeners: Iterable[Listener] = (),
        check: Callable[[], None] = _nothing,
    ) -> None:
        self._listeners, self._check = tuple(listeners), check
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
        """Append ``event``, and pass it to the listeners."""
        self._check()
        if self._path is not None:
            with naming(self._path), open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(event.to_dict()) + "\n")
        for listener in self._listeners:
            listener(event)
