"""Files of tensors (safetensors): one-line errors, and a hash that notices a flipped bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for

with needed_for("files of weights", "cli"):
    from safetensors import SafetensorError, safe_open


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """The file as safetensors' ``safe_open`` gives it.

    Raises:
        UserError: it is missing, or no safetensors file.
    """
    if not path.is_file():
        raise UserError(f"no model at {path}; expected a .safetensors file")
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    with file as opened:
        yield opened


def read_tensor(file: Any, name: str, path: Path) -> Tensor:
    """A tensor of an open file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        tensor: Tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(f"{name!r} of {path} cannot be read: {error}") from error
    return tensor


class Fingerprint:
    """SHA-256 of named tensors, in any order: of names, types, shapes and every bit.

    Args:
        tensors: the first of them; more are added one at a time.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._digests: dict[str, bytes] = {}
        for name, tensor in (tensors or {}).items():
            self.add(name, tensor)

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in ``tensor``, from any device and with any strides."""
        digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(raw_bytes(tensor))
        self._digests[name] = digest.digest()

    def hexdigest(self, text: str = "") -> str:
        """Of the tensors so far and of ``text``: 64 characters."""
        total = hashlib.sha256(hashlib.sha256(text.encode()).digest())
        for name in sorted(self._digests):
            total.update(hashlib.sha256(name.encode()).digest() + self._digests[name])
        return total.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The elements of ``tensor`` in the order of its indices, in the byte order of the machine."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
