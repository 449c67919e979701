"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edufast.utils.errors import UserError
from edufast.utils.files import naming, refuse_special_file

_NAME = ".lock"
_MOMENT = 0.1  # seconds, far more than is_locked takes


class InUse(UserError):
    """Another process holds it."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[Callable[[], None]]:
    """Lock ``folder``, which is created if it does not exist, for the duration of the block.

    Yields:
        As :func:`lock`.

    Raises:
        InUse, UserError: as :func:`lock`.
    """
    with lock(folder / _NAME, folder) as check:
        yield check


@contextmanager
def lock(path: Path, held: Path) -> Iterator[Callable[[], None]]:
    """Lock what the lock file ``path`` stands for, for the duration of the block.

    The kernel releases the lock when the process ends, however it ends: a lock file that is left
    behind locks nothing.

    Args:
        path: made where it does not exist, with its folder.
        held: what it stands for, in messages.

    Yields:
        A function that raises `InUse` if the lock file was removed: who removes a folder from under
        a process, and begins anew in it, does not want it to write there.

    Raises:
        InUse: another process holds it, and the message says which.
        UserError: no file can be written in the place of the lock's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_special_file(path)
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        with naming(path):  # not every file system has locks
            taken = _taken(file)
            if not taken:
                time.sleep(_MOMENT)  # it may only have been looked at
                taken = _taken(file)
        if not taken:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InUse(
                f"{held} is in use by {holder}; wait until it ends, or choose another folder"
            )
        with naming(path):
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}\n"
            )
            file.flush()
        yield functools.partial(_check_still, file, path, held)


def is_locked(folder: Path) -> bool:
    """Whether a process holds ``folder``; one on another machine only if the file system tells."""
    if not (folder / _NAME).is_file():
        return False
    try:
        with open(folder / _NAME, encoding="utf-8") as file:
            return not _taken(file, fcntl.LOCK_SH)  # given back as the file is closed
    except OSError:  # nobody can hold it there
        return False


def _check_still(file: TextIO, path: Path, held: Path) -> None:
    if not (path.exists() and os.path.samestat(os.stat(path), os.fstat(file.fileno()))):
        raise InUse(f"{held} was removed while this process was in it")


def _taken(file: TextIO, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
