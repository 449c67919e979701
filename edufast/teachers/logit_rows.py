"""A table of logits in a sparse file, each row with its own checksum."""

from __future__ import annotations

import hashlib
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.utils.errors import UserError
from edufast.utils.files import naming
from edufast.utils.numbers import whole_number

Words = NDArray[np.uint32]

_SCAN_BYTES = 64 << 20  # read at a time when all rows are checked
_MOST_CLASSES = 1 << 16  # of which the number fits beside a logit


@dataclass(frozen=True)
class RowFormat:
    """Encoding of logits (n, C) as words (n, width) of 32 bits.

    Attributes:
        classes: C.
        dtype: of the stored logits, float32 or bfloat16.
        top_k: store only this many logits, the largest, each in bfloat16 with its class, and the
            logarithm of the mass of the rest; None: all.
    """

    classes: int
    dtype: torch.dtype
    top_k: int | None

    @classmethod
    def of(cls, classes: int, dtype: torch.dtype, top_k: int | None) -> RowFormat:
        """The format for a teacher of ``classes`` classes, which may be fewer than ``top_k``.

        Raises:
            ValueError: ``dtype`` or ``top_k`` is not supported.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype is {dtype}; expected torch.float32 or torch.bfloat16")
        if top_k is None:
            return cls(classes, dtype, None)
        top_k = whole_number("top_k", top_k)
        if dtype != torch.bfloat16:
            raise ValueError(f"top_k is {top_k} with dtype {dtype}; expected torch.bfloat16")
        if classes > _MOST_CLASSES:
            raise ValueError(
                f"top_k is {top_k} for {classes} classes; expected None for more than "
                f"{_MOST_CLASSES}"
            )
        return cls(classes, dtype, top_k if top_k < classes else None)

    @property
    def width(self) -> int:
        """Words per row."""
        if self.top_k is not None:
            return self.top_k + 1
        return self.classes if self.dtype == torch.float32 else (self.classes + 1) // 2

    def encode(self, logits: Tensor) -> Words:
        """Logits (n, C) float32, on the host, to words (n, width)."""
        if self.top_k is not None:
            return self._encode_top(logits, self.top_k)
        if self.dtype == torch.bfloat16:
            even = logits.new_zeros(len(logits), 2 * self.width, dtype=torch.bfloat16)
            even[:, : self.classes] = logits
            return _words(even)
        return _words(logits.float())

    def decode(self, words: Words) -> Tensor:
        """Words (n, width) to logits (n, C) float32."""
        stored = torch.from_numpy(words.view(np.int32))
        if self.top_k is not None:
            return self._decode_top(stored, self.top_k)
        return stored.view(self.dtype)[:, : self.classes].float()

    def _encode_top(self, logits: Tensor, k: int) -> Words:
        top, classes = logits.float().topk(k)
        rest = logits.float().scatter(1, classes, -torch.inf).logsumexp(1, keepdim=True)
        bits = top.to(torch.bfloat16).view(torch.int16).to(torch.int32) & 0xFFFF
        return np.hstack([_words((classes.int() << 16) | bits), _words(rest)])

    def _decode_top(self, words: Tensor, k: int) -> Tensor:
        entries, rest = words[:, :k], words[:, k:].view(torch.float32)
        # The bits of a bfloat16 are the upper half of a float32's.
        top = (entries << 16).view(torch.float32)
        classes = (entries >> 16).long() & 0xFFFF
        share = rest - float(np.log(self.classes - k))
        return share.expand(-1, self.classes).scatter(1, classes, top)


class Rows:
    """``count`` rows in the file ``path``, which is created if it does not exist.

    A row consists of its words and a checksum of these, of the row's number and of what the rows
    are. There is no memory map: where the disk is full or the file was shortened, using one kills
    the process.

    Args:
        identity: says what the rows are, such as whose logits; those of another identity count as
            not stored.
    """

    def __init__(self, path: Path, count: int, row: RowFormat, identity: str) -> None:
        self._format = row
        self._path, self._count, self._bytes = path, count, 4 * (row.width + 1)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size != count * self._bytes:
            with naming(path):  # not every file system has files as large as this
                os.ftruncate(self._file, count * self._bytes)
        # Multilinear hashing (Lemire and Kaser 2014) of the row's number and its words.
        key = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:16], "big")
        random = np.random.Generator(np.random.Philox(key=key))
        self._multipliers = random.integers(0, 2**64, size=row.width + 2, dtype=np.uint64)

    def read(self, rows: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Logits (n, C) float32, and a mask (n,) of those that are stored and undamaged."""
        found = self._read([(row, 1) for row in rows.tolist()])
        valid = self._valid(rows, found)
        words = np.where(valid[:, None], found[:, :-1], np.uint32(0))  # others may not decode
        return self._format.decode(words), valid

    def write(self, rows: NDArray[np.int64], logits: Tensor) -> Tensor:
        """Store logits (n, C) float32, which are on the host; returns what :meth:`read` will.

        Raises:
            UserError: the file cannot be written, for instance because the disk is full.
        """
        words = self._format.encode(logits)
        stored = np.hstack([words, self._checksums(rows, words)[:, None]])
        try:
            for row, content in zip(rows.tolist(), stored, strict=True):
                os.pwrite(self._file, content.tobytes(), row * self._bytes)
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from error
        return self._format.decode(words)

    def rounded(self, logits: Tensor) -> Tensor:
        """What :meth:`write` returns for logits (n, C) float32, without storing them."""
        return self._format.decode(self._format.encode(logits))

    def stored(self) -> NDArray[np.bool_]:
        """Mask (count,) of the rows that are stored and undamaged."""
        step = max(1, _SCAN_BYTES // self._bytes)
        masks = []
        for start in range(0, self._count, step):
            rows = np.arange(start, min(start + step, self._count))
            found = self._read([(start, len(rows))])
            masks.append(self._valid(rows, found))
        return np.concatenate(masks)

    def _read(self, sections: list[tuple[int, int]]) -> Words:
        """The words of sections, each a first row and a number of rows. What the file does not hold
        reads as never written.

        Raises:
            UserError: the file cannot be read.
        """
        size = self._bytes
        try:
            read = [os.pread(self._file, count * size, row * size) for row, count in sections]
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}") from error
        whole = [
            content.ljust(n * size, b"\0") for content, (_, n) in zip(read, sections, strict=True)
        ]
        return np.frombuffer(b"".join(whole), np.uint32).reshape(-1, size // 4)

    def _valid(self, rows: NDArray[np.int64], found: Words) -> NDArray[np.bool_]:
        valid: NDArray[np.bool_] = found[:, -1] == self._checksums(rows, found[:, :-1])
        return valid

    def _checksums(self, rows: NDArray[np.int64], words: Words) -> Words:
        """Checksums (n,); never 0, because that is what a row that was not written reads as."""
        place, first, *_ = self._multipliers
        total = first + rows.astype(np.uint64) * place
        total = total + (words * self._multipliers[2:]).sum(1, dtype=np.uint64)
        return np.maximum(total >> np.uint64(32), 1).astype(np.uint32)


def _words(values: Tensor) -> Words:
    words: Words = values.contiguous().view(torch.int32).numpy().view(np.uint32)
    return words
