"""Standard error: what libraries written in C print there, and who no longer reads it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_messages() -> Iterator[None]:
    """Within the block nothing reaches standard error, from C code either."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def outlive_readers() -> None:
    """From now on, messages for which there is no reader or no room are dropped: after the Ctrl-C
    of ``edufast train ... 2>&1 | tee log``, which ends tee first, or in a terminal that was closed,
    what was trained is saved all the same."""
    if sys.stderr is not None:  # as where it is closed
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Descriptor(2, "w", closefd=False)),
            sys.stderr.encoding,
            "backslashreplace",
            line_buffering=True,
        )


class _Descriptor(io.FileIO):
    """Leads to nowhere once it cannot be written to."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(content)
