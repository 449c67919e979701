"""Checkpoints: written atomically, verified by a hash, and never unpickled beyond plain data."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

_FAMILY = b"EDUFAST"
_MAGIC = _FAMILY + b"2"  # incremented when older checkpoints can no longer be read
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) to ``path``.

    A hash goes in front, because torch detects a truncated file but not a flipped bit.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(_MAGIC)
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint of this version.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no checkpoint at {file}; expected a file written by a training run")
    data = file.read_bytes()
    if not data.startswith(_FAMILY):
        raise UserError(f"{file} is not an EduFast checkpoint")
    if not data.startswith(_MAGIC):
        raise UserError(
            f"{file} was written by another version of EduFast: found format "
            f"{data[len(_FAMILY) : len(_MAGIC)].decode(errors='replace')}; expected "
            f"{_MAGIC[len(_FAMILY) :].decode()}. Continue with that version, or start the run again"
        )
    if hashlib.sha256(memoryview(data)[_HEADER:]).digest() != data[len(_MAGIC) : _HEADER]:
        raise UserError(f"{file} is damaged: its content does not match its hash")
    state: dict[str, Any] = torch.load(
        io.BytesIO(data[_HEADER:]), map_location="cpu", weights_only=True
    )
    return state
