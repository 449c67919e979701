"""Teachers whose logits are computed once and kept on disk for every student that follows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data import Augment, Batch, DataSet, Loader
from edufast.teachers.faculty import Answer, Faculty, Teacher
from edufast.teachers.logit_store import LogitStore
from edufast.utils.errors import Interrupted
from edufast.utils.progress import counting
from edufast.utils.signals import deferred_interrupt

_FILL_BATCH = 256


class CachedFaculty(Faculty):
    """A :class:`Faculty` that stores its logits for every view of every training sample.

    The logits found in the store belong to exactly the pixels the student is shown, whatever its
    seed, batches and curriculum. What is not stored yet, or damaged, is computed by the teacher and
    stored on the way. Reading waits for no device; storing does. Features are not stored.

    Args:
        teachers, device, dtype, compile: as of :class:`Faculty`.
        folder: of the store, see :class:`edufast.teachers.logit_store.LogitStore`.
        stored_dtype: of the stored logits, ``torch.bfloat16`` or ``torch.float32`` (to the bit).
        top_k: keep only the largest logits, in bfloat16, with their classes and the rest's mass,
            which reading shares out evenly among the rest (Fast Knowledge Distillation,
            arXiv 2112.01528). Teachers of no more classes are stored whole. None: all logits.
    """

    has_features: ClassVar[bool] = False

    def __init__(
        self,
        teachers: Sequence[Teacher],
        folder: str | Path,
        device: torch.device | str = "cpu",
        *,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        stored_dtype: torch.dtype = torch.bfloat16,
        top_k: int | None = None,
    ) -> None:
        super().__init__(teachers, device, dtype=dtype, compile=compile)
        self.folder = Path(folder)
        self._stored_dtype, self._top_k = stored_dtype, top_k
        self._store: LogitStore | None = None
        self._augment: Augment | None = None

    def prepare(self, data: DataSet, augment: Augment) -> None:
        """Open the store for the training split of ``data``, seen through ``augment``.

        Raises:
            UserError, ValueError: as :meth:`Faculty.prepare` and
                :class:`edufast.teachers.logit_store.LogitStore`.
        """
        if self._store is not None and data is self._data and augment == self._augment:
            return
        self._store = None
        super().prepare(data, augment)
        self._store = LogitStore(
            self.folder,
            self._teachers,
            data,
            augment,
            precision=self.dtype or torch.float32,
            dtype=self._stored_dtype,
            top_k=self._top_k,
        )
        self._augment = augment

    @property
    def store(self) -> LogitStore:
        """Where the logits are.

        Raises:
            RuntimeError: before :meth:`prepare`.
        """
        if self._store is None:
            raise RuntimeError("the logit store is not open yet: call prepare(data, augment) first")
        return self._store

    def answer(self, teacher: int, batch: Batch, rows: slice) -> Answer:
        """Logits of some rows of a batch, those not stored being computed and stored.

        Raises:
            ValueError: the views of the batch are not countable.
        """
        if batch.views is None:
            raise ValueError("batch.views is None; expected numbers, of a countable augmentation")
        views = batch.views[rows].numpy()
        stored_logits, stored = self.store.read(teacher, views)
        missing = np.flatnonzero(~stored)
        logits = _to_device(stored_logits, self.device)
        if len(missing):
            at = torch.from_numpy(missing).to(logits.device)
            images = batch.images[rows]
            partial = len(missing) < len(views)
            images = images[at] if partial else images
            fresh = self.logits(teacher, images, eager=partial)
            logits[at] = fresh
            self.store.write(teacher, views[missing], fresh.cpu())
        return Answer(logits, len(missing))

    def fill(self, questions: Mapping[int, Collection[int]]) -> int:
        """Compute all that is missing, showing a progress bar. Stops at Ctrl-C and goes on later.

        Args:
            questions: class ids by teacher, about whose samples each will be asked; see
                :meth:`edufast.training.curriculum.Curriculum.questions`.

        Returns:
            How many rows were computed.

        Raises:
            Interrupted: after Ctrl-C; what was computed is stored.
            RuntimeError: before :meth:`prepare`.
        """
        wanted = {k: self._missing(k, classes) for k, classes in questions.items()}
        total = sum(len(views) for views in wanted.values())
        with deferred_interrupt() as interrupted, counting("teachers' logits", total) as advance:
            for k, views in wanted.items():
                for batch in self._batches(views):
                    self.answer(k, batch, slice(None))
                    advance(len(batch.labels))
                    if interrupted():
                        raise Interrupted("the logit cache")
        return total

    def _missing(self, teacher: int, classes: Collection[int]) -> NDArray[np.int64]:
        stored = self.store.stored(teacher)
        assert self._data is not None
        samples = np.isin(self._data.train.labels, list(classes))
        return np.flatnonzero(~stored & samples[:, None])

    def _batches(self, views: NDArray[np.int64]) -> Iterator[Batch]:
        data = self._data
        assert data is not None
        loader = Loader(
            data.train,
            batch_size=min(_FILL_BATCH, len(data.train)),
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            augment=self._augment,
            device=self.device,
        )
        return loader.numbered(*np.divmod(views, self.store.views))


def _to_device(logits: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return logits.to(device)
    return logits.pin_memory().to(device, non_blocking=True)
