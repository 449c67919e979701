"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import strftime

from edufast.utils.errors import UserError
from edufast.utils.files import naming, refuse_special_file

_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made where it does not exist, for the time of the block.

    The kernel releases the lock when the process ends, however it ends: a lock file that is left
    behind locks nothing.

    Raises:
        UserError: another process holds the folder, and the message says which; or no file can be
            written in the place of the lock's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_special_file(folder / _NAME)
    with open(folder / _NAME, "a+", encoding="utf-8", errors="replace") as file:
        try:
            with naming(folder / _NAME):  # not every file system has locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by {holder}; wait until it ends, or choose another folder"
            ) from error
        with naming(folder / _NAME):
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {socket.gethostname()}, since {strftime('%F %T')}\n"
            )
            file.flush()
        yield
