"""Teachers whose logits are computed once and stored on disk for all later students."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from edufast.data import Augment, Batch, DataSet, Loader
from edufast.data.image_files import naming_unreadable
from edufast.teachers.faculty import Answer, Faculty, Teacher
from edufast.teachers.logit_store import LogitStore
from edufast.utils.devices import to_device
from edufast.utils.errors import Interrupted, UserError
from edufast.utils.instances import check_instance
from edufast.utils.progress import counting
from edufast.utils.ranks import size
from edufast.utils.signals import deferred_interrupt

_FILL_BATCH = 256


def check_alone() -> None:
    """Check that this process trains alone: a store of logits is written to by one at a time.

    Raises:
        UserError: it is one of several ranks.
    """
    if size() > 1:
        raise UserError(
            f"a cache of logits is for one process at a time; found {size()}; expected no --cache "
            "and no CachedFaculty, or a start without torchrun"
        )


class CachedFaculty(Faculty):
    """A :class:`Faculty` that stores its logits for every view of every training sample.

    Stored logits belong to exactly the pixels that the student is shown, whatever its seed, batches
    and curriculum. Logits that are missing or damaged are computed by the teacher and stored.
    Reading never waits for the device; storing does. Features are not stored.

    Args:
        teachers, device, dtype, compile: as of :class:`Faculty`.
        folder: of the store, see :class:`edufast.teachers.logit_store.LogitStore`.
        stored_dtype: of the stored logits, ``torch.bfloat16`` or ``torch.float32`` (exact).
        top_k: store only this many logits per view, the largest, in bfloat16, with their classes
            and the mass of the rest, which is spread evenly over the other classes when it is read
            (Fast Knowledge Distillation, arXiv 2112.01528). Teachers with no more classes than that
            are stored completely. None: all logits.
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
        check_instance("folder", folder, str, os.PathLike)
        super().__init__(teachers, device, dtype=dtype, compile=compile)
        self.folder = Path(folder)
        self._stored_dtype, self._top_k = stored_dtype, top_k
        self._store: LogitStore | None = None
        self._augment: Augment | None = None

    def prepare(self, data: DataSet, augment: Augment) -> None:
        """Open the store for the training split of ``data``, augmented by ``augment``.

        Raises:
            UserError, ValueError: as :meth:`Faculty.prepare` and
                :class:`edufast.teachers.logit_store.LogitStore`.
        """
        check_alone()
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
        """The store of the logits.

        Raises:
            RuntimeError: :meth:`prepare` has not been called.
        """
        if self._store is None:
            raise RuntimeError("the logit store is not open yet: call prepare(data, augment) first")
        return self._store

    def answer(self, teacher: int, batch: Batch, rows: slice) -> Answer:
        """Logits of some rows of a batch; those that are not stored are computed and stored.

        Raises:
            ValueError: the batch has no view numbers, because its views are not countable.
        """
        if batch.views is None:
            raise ValueError(
                "batch.views is None; expected view numbers, from a countable augmentation"
            )
        views = batch.views[rows].numpy()
        stored_logits, stored = self.store.read(teacher, views)
        missing = np.flatnonzero(~stored)
        logits = to_device(stored_logits, self.device)
        if len(missing):
            at = to_device(torch.from_numpy(missing), self.device)
            images = batch.images[rows]
            partial = len(missing) < len(views)
            images = images[at] if partial else images
            fresh = self.logits(teacher, images, eager=partial)
            # As stored, also the first time: a training that goes on reads what it had before.
            rounded = self.store.write(teacher, views[missing], fresh.cpu())
            logits[at] = to_device(rounded, self.device)
        return Answer(logits, len(missing))

    def fill(self, questions: Mapping[int, Collection[int]]) -> int:
        """Compute all missing logits, with a progress bar.

        Args:
            questions: class ids of the samples that each teacher will be run on, by its position;
                see :meth:`edufast.training.curriculum.Curriculum.questions`.

        Returns:
            The number of rows computed.

        Raises:
            Interrupted: after Ctrl-C; the logits computed so far are stored, and another call
                continues from there.
            RuntimeError: :meth:`prepare` has not been called.
        """
        wanted = {k: self._missing(k, classes) for k, classes in questions.items()}
        total = sum(len(views) for views in wanted.values())
        assert self._data is not None
        with (
            naming_unreadable(self._data.train, self._data.val),
            deferred_interrupt() as interrupted,
            counting("teachers' logits", total) as advance,
        ):
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
