"""A folder with teachers' logits for every view of every training sample."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data import Augment, DataSet
from edufast.models.image_format import ImageFormat
from edufast.teachers.logit_rows import RowFormat, Rows
from edufast.teachers.teacher import Teacher
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write, remove_partial_files
from edufast.utils.json_text import parse_json

_VERSION = 3
_MOST_ROWS = 2**30  # of a teacher; all of them are marked in memory when they are looked for


class LogitStore:
    """A table per teacher, with a row for each ``Batch.views`` number of the training split.

    header.json describes everything that the logits depend on. A folder whose header does not match
    the teachers, the data and the augmentation is refused. Files are sparse: only stored rows take
    up space.

    Rows are written without transactions. A row that a crash left incomplete, that was damaged
    later or that belongs elsewhere, to another teacher or another store, fails its checksum and
    counts as not stored.

    Args:
        folder: of header.json and a file per teacher; created if it does not exist.
        teachers: whose logits these are. More can be added to a folder later, at the end or in
            place of one without weights; none can be replaced.
        data: the tables cover ``data.train``.
        augment: of the students; its views must be countable.
        precision: dtype in which the teachers compute.
        dtype: of the stored logits, ``torch.bfloat16`` or ``torch.float32``.
        top_k: store only this many logits per view, the largest; None: all.

    Raises:
        UserError: there are too many views, or the folder holds logits of another teacher, data
            set or augmentation, or in another format; the message says which.
        ValueError: ``dtype`` or ``top_k`` is not supported.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Sequence[Teacher],
        data: DataSet,
        augment: Augment,
        *,
        precision: torch.dtype,
        dtype: torch.dtype,
        top_k: int | None,
    ) -> None:
        self.views = countable_views(augment, len(data.train))
        self.folder = folder
        remove_partial_files(folder)
        formats = [RowFormat.of(len(teacher.classes), dtype, top_k) for teacher in teachers]
        images = ImageFormat(data.mean, data.std, data.image_size)
        shared = {
            "version": _VERSION,
            "data set": _fingerprint_of_data(data),
            "normalisation": _listed(images),
            "augmentation": json.loads(json.dumps(asdict(augment))),
            "dtype": str(dtype),
            "top_k": top_k,
            "precision": str(precision),
        }
        known = [_header_of(teacher, images) for teacher in teachers]
        self._write_header({**shared, "teachers": known})
        count = len(data.train) * self.views
        self._rows = [
            Rows(self.folder / f"teacher{k}.logits", count, row, json.dumps([shared, k, own]))
            for k, (row, own) in enumerate(zip(formats, known, strict=True))
        ]

    def read(self, teacher: int, views: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Logits (n, C_k) float32 of views (n,), and a mask (n,) of those that are stored."""
        return self._rows[teacher].read(views)

    def write(self, teacher: int, views: NDArray[np.int64], logits: Tensor) -> Tensor:
        """Store logits (n, C_k) float32, which are on the host; returns what :meth:`read` will.

        Raises:
            UserError: the file cannot be written, for instance because the disk is full.
        """
        return self._rows[teacher].write(views, logits)

    def rounded(self, teacher: int, logits: Tensor) -> Tensor:
        """What :meth:`write` returns for logits (n, C_k) float32, without storing them."""
        return self._rows[teacher].rounded(logits)

    def stored(self, teacher: int) -> NDArray[np.bool_]:
        """Mask (N, views) of the rows that are stored and undamaged; reads the whole file."""
        return self._rows[teacher].stored().reshape(-1, self.views)

    def _write_header(self, header: dict[str, Any]) -> None:
        path = self.folder / "header.json"
        if path.exists():
            found = self._read_header()
            self._refuse_another(header, found)
            both = itertools.zip_longest(header["teachers"], found["teachers"])
            header["teachers"] = [ours or theirs for ours, theirs in both]
            if header == found:
                return
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(header, indent=2), "utf-8")

    def _read_header(self) -> dict[str, Any]:
        path = self.folder / "header.json"
        try:
            found: dict[str, Any] = parse_json(path.read_text("utf-8"))
            found["teachers"] = list(found["teachers"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged; delete {self.folder}, which can be rebuilt"
            ) from error
        return found

    def _refuse_another(self, header: dict[str, Any], found: dict[str, Any]) -> None:
        pairs = [(key, header[key], found.get(key)) for key in header if key != "teachers"]
        both = zip(header["teachers"], found["teachers"], strict=False)
        # Nothing has been stored for a teacher without weights.
        known = [(k, ours, theirs) for k, (ours, theirs) in enumerate(both) if ours and theirs]
        pairs += [(f"teacher {k}", ours, theirs) for k, ours, theirs in known]
        for what, expected, other in pairs:
            if expected != other:
                raise UserError(
                    f"{self.folder} holds logits of another {what}: {_brief(other)}; expected "
                    f"{_brief(expected)}. Choose another folder or delete this one"
                )


def countable_views(augment: Augment, samples: int) -> int:
    """``augment.views``.

    Raises:
        UserError: there are too many views to count, or to store logits of each for so many
            training ``samples``.
    """
    if augment.views is None:
        raise UserError(
            "augment: random resized crops have too many views to store logits of each; expected "
            "augment.replay, the number of views per sample"
        )
    if augment.views * samples > _MOST_ROWS:
        raise UserError(
            f"augment: {augment.views} views of each of {samples} training samples are too many to "
            f"store logits of; expected at most {_MOST_ROWS // samples}, for instance by "
            "augment.replay"
        )
    return augment.views


def _header_of(teacher: Teacher, images: ImageFormat) -> dict[str, Any] | None:
    """None for a teacher without weights: it takes the place of one that is never run."""
    if not teacher.has_weights:
        return None
    return {
        "name": teacher.name,
        "classes": list(teacher.classes),
        "images": _listed(teacher.image_format(images)),
        "sha256": teacher.fingerprint,
    }


def _listed(images: ImageFormat) -> list[float | None]:
    return [images.size, *images.mean, *images.std]


def _fingerprint_of_data(data: DataSet) -> str:
    """Hash of the training split: of its pixels if they are in memory; of image files the names,
    their folders' names and their sizes, because reading them all could take hours."""
    images, digest = data.train.images, hashlib.sha256(data.train.labels.tobytes())
    if isinstance(images, np.ndarray):
        digest.update(str(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
    else:
        for path in images:
            size = path.stat().st_size
            digest.update(os.fsencode(f"{path.parent.name}/{path.name} {size}\n"))
    return digest.hexdigest()


def _brief(value: object) -> str:
    if isinstance(value, dict) and "sha256" in value:  # perhaps of a damaged header
        name, sha256, images = (value.get(key) for key in ("name", "sha256", "images"))
        return f"{name} (sha256 {str(sha256)[:12]}, images {images})"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
