"""Teachers' logits, computed once and kept on disk for every student that follows."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edufast.data import Augment, Batch, DataSet, Loader
from edufast.teachers.logit_store import RowFormat, Rows
from edufast.utils.errors import Interrupted, UserError
from edufast.utils.files import atomic_write
from edufast.utils.progress import counting
from edufast.utils.signals import deferred_interrupt

if TYPE_CHECKING:
    from edufast.teachers.faculty import Faculty, Teacher

_VERSION = 1
_FILL_BATCH = 256


class LogitCache:
    """The logits of a faculty for every view of every training sample.

    A table a teacher, one row for each ``Batch.views`` number: the logits found there belong to
    exactly the pixels the student is shown, whatever its seed, batches and curriculum. What is not
    stored yet, or damaged, is computed by the teacher and stored on the way. Files are sparse: only
    what was stored takes space. Reading waits for no device; storing does.

    Rows are written without a transaction. A row that a crash tore, that was damaged later or that
    belongs elsewhere fails its checksum and counts as not stored.

    Args:
        folder: header.json and a file a teacher; made where it does not exist.
        faculty: the teachers. Others may be added to a folder later, behind these or in the place
            of one without weights; none can be exchanged.
        data: what is learned; the table covers ``data.train``.
        augment: of the students; its views must be countable.
        dtype: of the stored logits, ``torch.bfloat16`` or ``torch.float32`` (to the bit).
        top_k: keep only the largest logits, in bfloat16, with their classes and the rest's mass,
            which reading shares out evenly among the rest (Fast Knowledge Distillation,
            arXiv 2112.01528). Teachers of no more classes are stored whole. None: all logits.

    Raises:
        UserError: the views cannot be counted, or the folder holds the logits of another teacher,
            data set or augmentation, or stored in another way; the message says which.
        ValueError: ``dtype`` or ``top_k`` is none of those expected.
    """

    def __init__(
        self,
        folder: str | Path,
        faculty: Faculty,
        data: DataSet,
        augment: Augment,
        *,
        dtype: torch.dtype = torch.bfloat16,
        top_k: int | None = None,
    ) -> None:
        self.views = require_countable(augment)
        self.folder = Path(folder)
        self._faculty, self._data, self._augment = faculty, data, augment
        formats = [RowFormat.of(len(teacher.classes), dtype, top_k) for teacher in faculty]
        self._write_header(_header(faculty, data, augment, dtype, top_k))
        self._rows = [
            Rows(self.folder / f"teacher{k}.logits", len(data.train) * self.views, row)
            for k, row in enumerate(formats)
        ]

    def logits(self, teacher: int, batch: Batch, rows: slice) -> tuple[Tensor, int]:
        """Logits of some rows of a batch, those not stored being computed and stored.

        Returns:
            (B, C_k) float32 on the faculty's device, and for how many rows the teacher was asked.

        Raises:
            ValueError: the views of the batch are not countable.
        """
        if batch.views is None:
            raise ValueError("batch.views is None; expected numbers, of a countable augmentation")
        views = batch.views[rows].numpy()
        logits, stored = self._rows[teacher].read(views)
        missing = np.flatnonzero(~stored)
        answer = _to_device(logits, self._faculty.device)
        if len(missing):
            at = torch.from_numpy(missing).to(answer.device)
            images = batch.images[rows]
            partial = len(missing) < len(views)
            images = images[at] if partial else images
            fresh = self._faculty.logits(teacher, images, eager=partial)
            answer[at] = fresh
            self._rows[teacher].write(views[missing], fresh.cpu())
        return answer, len(missing)

    def fill(self, questions: Mapping[int, Collection[int]]) -> int:
        """Compute all that is missing, showing a progress bar. Stops at Ctrl-C and goes on later.

        Args:
            questions: of the samples of which classes each teacher will be asked; see
                :func:`edufast.training.curriculum.questions`.

        Returns:
            How many rows were computed.

        Raises:
            Interrupted: after Ctrl-C; what was computed is stored.
        """
        wanted = {k: self._missing(k, classes) for k, classes in questions.items()}
        total = sum(len(views) for views in wanted.values())
        with deferred_interrupt() as interrupted, counting("teachers' logits", total) as advance:
            for k, views in wanted.items():
                for batch in self._batches(views):
                    self.logits(k, batch, slice(None))
                    advance(len(batch.labels))
                    if interrupted():
                        raise Interrupted("the logit cache")
        return total

    def stored(self, teacher: int) -> NDArray[np.bool_]:
        """(N, views): which rows of ``teacher`` are stored and undamaged. Reads the whole file."""
        return self._rows[teacher].stored().reshape(-1, self.views)

    def check(self, faculty: Faculty, data: DataSet, augment: Augment) -> None:
        """Raise UserError where the cache is not of this faculty, data set and augmentation."""
        ours = faculty is self._faculty and data is self._data and augment == self._augment
        if not ours:
            found = self._read_header()
            stored_as = {"dtype": found["dtype"], "top_k": found["top_k"]}
            self._refuse_another(_header(faculty, data, augment, **stored_as), found)

    def _missing(self, teacher: int, classes: Collection[int]) -> NDArray[np.int64]:
        samples = np.isin(self._data.train.labels, list(classes))
        return np.flatnonzero(~self.stored(teacher) & samples[:, None])

    def _batches(self, views: NDArray[np.int64]) -> Iterator[Batch]:
        loader = Loader(
            self._data.train,
            batch_size=min(_FILL_BATCH, len(self._data.train)),
            image_size=self._data.image_size,
            mean=self._data.mean,
            std=self._data.std,
            augment=self._augment,
            device=self._faculty.device,
        )
        return loader.numbered(*np.divmod(views, self.views))

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
            temporary.write_text(json.dumps(header, indent=2))

    def _read_header(self) -> dict[str, Any]:
        path = self.folder / "header.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            found["teachers"] = list(found["teachers"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged; delete {self.folder}, it can be made again"
            ) from error
        return found

    def _refuse_another(self, header: dict[str, Any], found: dict[str, Any]) -> None:
        pairs = [(key, header[key], found.get(key)) for key in header if key != "teachers"]
        both = zip(header["teachers"], found["teachers"], strict=False)
        # Nothing is stored yet of a teacher that was absent.
        known = [(k, ours, theirs) for k, (ours, theirs) in enumerate(both) if ours and theirs]
        pairs += [(f"teacher {k}", ours, theirs) for k, ours, theirs in known]
        for what, expected, other in pairs:
            if expected != other:
                raise UserError(
                    f"{self.folder} holds logits of another {what}: {_brief(other)}; expected "
                    f"{_brief(expected)}. Choose another folder or delete this one"
                )


def require_countable(augment: Augment) -> int:
    """``augment.views``, or UserError where they are too many."""
    if augment.views is None:
        raise UserError(
            "augment: random resized crops have too many views to keep logits of each; expected "
            "augment.replay, the number of views of a sample to choose from"
        )
    return augment.views


def _header(
    faculty: Faculty, data: DataSet, augment: Augment, dtype: torch.dtype | str, top_k: int | None
) -> dict[str, Any]:
    """All that the logits are a function of, and how they are stored."""
    return {
        "version": _VERSION,
        "data set": _fingerprint_of_data(data),
        "normalisation": [data.image_size, *data.mean, *data.std],
        "augmentation": json.loads(json.dumps(asdict(augment))),
        "dtype": str(dtype),
        "top_k": top_k,
        "precision": str(faculty.dtype or torch.float32),
        "teachers": [_header_of(teacher) for teacher in faculty],
    }


def _header_of(teacher: Teacher) -> dict[str, Any] | None:
    """None: it has no weights, and only takes the place of one that is not asked."""
    if not teacher.model.state_dict():
        return None
    return {
        "name": teacher.name,
        "classes": list(teacher.classes),
        "sha256": _fingerprint_of_weights(teacher.model),
    }


def _fingerprint_of_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _fingerprint_of_data(data: DataSet) -> str:
    """Of the training split: of pixels in memory, but of image files the last folder, the name and
    the size, since reading them all could take hours."""
    images, digest = data.train.images, hashlib.sha256(data.train.labels.tobytes())
    if isinstance(images, np.ndarray):
        digest.update(str(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
    else:
        for path in images:
            size = path.stat().st_size
            digest.update(f"{path.parent.name}/{path.name} {size}\n".encode())
    return digest.hexdigest()


def _to_device(logits: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return logits.to(device)
    return logits.pin_memory().to(device, non_blocking=True)


def _brief(value: object) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['name']} (sha256 {value['sha256'][:12]})"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
