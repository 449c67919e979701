"""Finding the parts of a data set on disk, with errors that say what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edufast.utils.errors import UserError


def find_folder(given: Path, name: str, holds: str, archive: str) -> Path:
    """The folder of an unpacked archive: ``given``, or ``name`` inside it.

    Args:
        holds: a file or folder inside it by which it is recognised.
        archive: the archive it comes from, for the message.

    Raises:
        UserError: neither contains ``holds``.
    """
    for folder in (given, given / name):
        if (folder / holds).exists():
            return folder
    raise UserError(
        f"{given}: holds neither {holds} nor {name}/{holds}; expected {archive}, unpacked"
    )


def read_lines(path: Path, archive: str) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        UserError: the file is missing, empty, or not text.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; it is part of {archive}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text; it is part of {archive}") from error
    if not lines:
        raise UserError(f"{path}: is empty; it is part of {archive}")
    return lines


def read_pairs(path: Path, separator: str, archive: str) -> Iterator[tuple[str, str]]:
    """The first two columns of a text file.

    Raises:
        UserError: as :func:`read_lines`, or a line has one column only.
    """
    for number, line in enumerate(read_lines(path, archive), 1):
        first, found, rest = line.partition(separator)
        if not found:
            raise UserError(f"{path}: line {number} is {line[:60]!r}; expected two columns")
        yield first, rest.partition(separator)[0]


def files_in(folder: Path, suffix: str, archive: str) -> set[str]:
    """Names of the files in ``folder`` that end in ``suffix``, in upper or lower case, without
    hidden ones such as ._1.jpg, which macOS puts beside 1.jpg.

    Raises:
        UserError: the folder is missing, or has no such file.
    """
    try:
        with os.scandir(folder) as entries:
            files = {e.name for e in entries if e.is_file() and not e.name.startswith(".")}
    except OSError as error:
        raise UserError(f"{folder}: missing; it is a folder of {archive}") from error
    names = {name for name in files if os.path.splitext(name)[1].lower() == suffix}
    if not names:
        raise UserError(f"{folder}: has no {suffix} images; expected those of {archive}")
    return names
