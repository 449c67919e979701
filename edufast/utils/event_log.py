"""The diary of a run: one JSON object a line, appended as things happen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edufast.utils.files import atomic_write


class Journal:
    """Appends events to ``path``; without one it keeps nothing.

    Every line is flushed as it is written: whoever watches or interrupts a run loses none. A last
    line cut short by a crash is dropped when the run goes on.
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

    def write(self, event: str, **fields: Any) -> None:
        """Append ``{"event": event, **fields}``."""
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, **fields}) + "\n")
