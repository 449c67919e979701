"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one."""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edufast.utils.errors import UserError

_PARTIAL = ".partial"  # ends the names of folders in which files are being written


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success fsync it and rename it to ``path``.

    The folder is created when missing. A symbolic link stays one: as with ``open``, the file it
    points to is written. If the block raises, the temporary file is removed and ``path`` keeps what
    it held before. What a killed process left of writing ``path`` is removed.

    Raises:
        UserError: ``path`` exists and is not a regular file: a device would be replaced by a file.
    """
    refuse_special_file(path)
    target = Path(os.path.realpath(path))
    folder, lock = _begin(target)
    temporary = folder / target.name
    try:
        with naming(path):
            mode = _mode_of_new_files(folder)
            yield temporary
        _sync(temporary)
        temporary.chmod(mode)  # whatever wrote it
        temporary.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``, which takes the place of ``path`` as a whole when
    the block succeeds; if the block raises, ``path`` keeps what it held before.
    """
    target = Path(os.path.realpath(path))
    folder, lock = _begin(target)
    temporary = folder / target.name
    temporary.mkdir()
    try:
        with naming(path):
            yield temporary
        for written in temporary.rglob("*"):
            _sync(written)
        _exchange(temporary, target, folder / "earlier")
        _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def atomic_files(folder: str | os.PathLike[str], last: str) -> Iterator[Path]:
    """Yield a temporary folder in ``folder``. On success the files in it are moved into ``folder``,
    among others that are there; if the block raises, ``folder`` keeps what it held before.

    The file ``last`` stands for all of them: it is moved last, and an earlier one is removed first.
    Where there is one, all the files belong to it, whenever a process was killed.

    Raises:
        UserError: in the place of a file is a folder or the like.
    """
    target = Path(os.path.realpath(folder)) / last
    was_there = target.parent.exists()
    temporary, lock = _begin(target)
    try:
        with naming(folder):
            mode = _mode_of_new_files(temporary)
            yield temporary
        names = sorted((each.name for each in temporary.iterdir()), key=last.__eq__)
        for name in names:
            refuse_special_file(target.parent / name)
            _sync(temporary / name)
            (temporary / name).chmod(mode)
        target.unlink(missing_ok=True)
        for name in names:
            (temporary / name).replace(target.parent / name)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)
        if not was_there:
            with suppress(OSError):  # it has files
                target.parent.rmdir()


def cache_folder() -> Path:
    """The folder for files that can be made again: ``$EDUFAST_CACHE``, or ``~/.cache/edufast``."""
    folder = os.environ.get("EDUFAST_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "edufast"


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block, file system errors that name no file, such as those of a full disk, name
    ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Check that a file may be written to ``path``.

    Raises:
        UserError: a folder, a device, a pipe or a socket is there.
    """
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise UserError(f"{os.fspath(path)} is {what}; expected a file to write")


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left of :func:`atomic_write` in ``folder``, at any depth."""
    for place, folders, _ in os.walk(folder):  # which passes over what another process removes
        for name in fnmatch.filter(folders, f".*{_PARTIAL}"):
            _remove_unlocked(Path(place, name))


def _begin(target: Path) -> tuple[Path, int]:
    """:func:`_create_locked`, without what killed processes left of writing ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
        _remove_unlocked(partial)
    return _create_locked(target)


def _create_locked(target: Path) -> tuple[Path, int]:
    """A new folder next to ``target``, and its descriptor, which locks it: the kernel releases the
    lock when the process ends, however it ends. A folder, because some writers put a file of their
    own beside the one that they are asked for, or in its place."""
    while True:
        folder = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=_PARTIAL)
        # Another process may be faster, take it for one left behind, and remove it.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(folder):
                return Path(folder), lock
            os.close(lock)


def _exchange(new: Path, target: Path, earlier: Path) -> None:
    """Put the folder ``new`` in the place of ``target``, and what is there in that of ``earlier``;
    if this fails, back again. Another process may do the same at once."""
    try:
        while True:
            with suppress(FileNotFoundError):
                target.replace(earlier)
            try:
                new.replace(target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(earlier, ignore_errors=True)  # of the other process, which was first
    except BaseException:
        if earlier.exists() and not target.exists():
            earlier.replace(target)
        raise


def _mode_of_new_files(folder: Path) -> int:
    """What a plain open() gives, tried out in an empty folder.

    To ask for the umask is to change it, for a moment and for all threads.
    """
    plain = folder / "plain"
    plain.touch()
    mode = stat.S_IMODE(plain.stat().st_mode)
    plain.unlink()
    return mode


def _remove_unlocked(folder: Path) -> None:
    """Remove what a process was writing, unless it still is."""
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
