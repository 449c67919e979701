"""Checkpoints: written atomically, verified by a hash, and never unpickled beyond plain data."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

_FAMILY = b"EDUFAST"
_MAGIC = _FAMILY + b"2"  # incremented when older checkpoints can no longer be read
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size


class DamagedCheckpoint(UserError):
    """A checkpoint whose content is not what was written."""


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) to ``path``.

    A hash goes in front, because torch detects a truncated file but not a flipped bit. The
    checkpoint before is kept beside it, see :func:`latest_checkpoint`.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    if path.exists():
        path.replace(_previous(path))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(_MAGIC)
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote, on the CPU.

    Raises:
        UserError: the file is missing, or a checkpoint of another version.
        DamagedCheckpoint: it is damaged, or no checkpoint.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no checkpoint at {file}; expected a file written by a training run")
    data = file.read_bytes()
    if not data.startswith(_FAMILY):
        raise DamagedCheckpoint(f"{file} is not an EduFast checkpoint")
    if not data.startswith(_MAGIC):
        raise UserError(
            f"{file} was written by another version of EduFast: found format "
            f"{data[len(_FAMILY) : len(_MAGIC)].decode(errors='replace')}; expected "
            f"{_MAGIC[len(_FAMILY) :].decode()}. Continue with that version, or start the run again"
        )
    if hashlib.sha256(memoryview(data)[_HEADER:]).digest() != data[len(_MAGIC) : _HEADER]:
        raise DamagedCheckpoint(f"{file} is damaged: its content does not match its hash")
    state: dict[str, Any] = torch.load(
        io.BytesIO(data[_HEADER:]), map_location="cpu", weights_only=True
    )
    return state


def latest_checkpoint(
    path: str | os.PathLike[str], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The state in ``path`` or, where that is damaged, in the checkpoint before.

    Args:
        path: of :func:`save_checkpoint`.
        say: gets a line about each damaged file.

    Returns:
        None: there is no checkpoint that is whole.

    Raises:
        UserError: the checkpoint is of another version.
    """
    for file in (Path(path), _previous(Path(path))):
        if not file.exists():
            continue
        try:
            return load_checkpoint(file)
        except DamagedCheckpoint as error:
            say(f"{error}; going on from the checkpoint before, or from the beginning")
            # Out of the way: the next save must not put it in the place of the one before.
            file.replace(file.with_suffix(".damaged"))
    return None


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")
