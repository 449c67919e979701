"""Teachers whose logits are computed once and stored on disk for all later students."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data import Augment, Batch, DataSet, Loader
from edufast.data.image_files import naming_unreadable
from edufast.teachers.faculty import Answer, Faculty
from edufast.teachers.logit_store import LogitStore
from edufast.teachers.teacher import Teacher
from edufast.utils import ranks
from edufast.utils.collectives import gather_rows
from edufast.utils.devices import to_device
from edufast.utils.errors import Interrupted, UserError
from edufast.utils.instances import check_instance
from edufast.utils.progress import counting
from edufast.utils.signals import deferred_interrupt

_FILL_BATCH = 256


class CachedFaculty(Faculty):
    """A :class:`Faculty` that stores its logits for every view of every training sample.

    Stored logits belong to exactly the pixels that the student is shown, whatever its seed, batches
    and curriculum. Logits that are missing or damaged are computed by the teacher and stored.
    Reading never waits for the device; storing does. Features are not stored.

    Of several ranks the first one stores, and only in :meth:`fill`: logits that a training does not
    find are computed at every step. Those of a sharded teacher must be stored before a training.

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
        # Of the weights that run, which a teacher's model may not keep.
        self._teachers = tuple(
            replace(t, _fingerprint=t.fingerprint) if t.has_weights else t for t in self._teachers
        )
        self.folder = Path(folder)
        self._stored_dtype, self._top_k = stored_dtype, top_k
        self._store: LogitStore | None = None
        self._augment: Augment | None = None
        self._warned = False  # of missing logits

    def prepare(self, data: DataSet, augment: Augment) -> None:
        """Open the store for the training split of ``data``, augmented by ``augment``.

        Raises:
            UserError, ValueError: as :meth:`Faculty.prepare` and
                :class:`edufast.teachers.logit_store.LogitStore`.
        """
        if self._store is not None and data is self._data and augment == self._augment:
            return
        self._store = None
        super().prepare(data, augment)
        ranks.from_first(self._open, data, augment)  # writes the header
        if not ranks.is_first():
            self._open(data, augment)

    def _open(self, data: DataSet, augment: Augment) -> None:
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
        """Logits of some rows of a batch; those that are not stored are computed and, by a single
        process, stored.

        Raises:
            ValueError: the batch has no view numbers, because its views are not countable.
            UserError: some are not stored, of a sharded teacher: not all ranks would run it.
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
            self._check_may_compute(teacher)
            at = to_device(torch.from_numpy(missing), self.device)
            images = batch.images[rows]
            partial = len(missing) < len(views)
            images = images[at] if partial else images
            fresh = self.logits(teacher, images, eager=partial)
            # As stored, also the first time: a training that goes on reads what it had before.
            if ranks.size() == 1:
                rounded = self.store.write(teacher, views[missing], fresh.cpu())
            else:
                rounded = self.store.rounded(teacher, fresh.cpu())
            logits[at] = to_device(rounded, self.device)
        return Answer(logits, len(missing))

    def stand_by(self, teacher: int, image: Tensor) -> None:
        """Do nothing: sharded teachers do not run when everything is stored."""

    def fill(self, classes: Mapping[int, Collection[int]]) -> int:
        """Compute all missing logits, with a progress bar. Several ranks share the work, and the
        first one stores it: the same bytes as by a single process.

        Args:
            classes: ids of those whose samples each teacher will be shown, by its position; see
                :meth:`edufast.training.curriculum.Curriculum.shown_to`.

        Returns:
            The number of rows computed.

        Raises:
            Interrupted: after Ctrl-C; the logits computed so far are stored, and another call
                continues from there.
            RuntimeError: :meth:`prepare` has not been called.
        """
        wanted = ranks.from_first(self._missing, classes)
        total = sum(len(views) for views in wanted.values())
        with (
            naming_unreadable(self._shown.train, self._shown.val),
            deferred_interrupt() as interrupted,
            counting("teachers' logits", total, quiet=not ranks.is_first()) as advance,
        ):
            stop = ranks.Stop(interrupted, self.device)
            for k, views in wanted.items():
                for computed, logits in self._computed(k, views):
                    if ranks.is_first():
                        self.store.write(k, computed, logits.cpu())
                    advance(len(computed))
                    if stop():
                        raise Interrupted("the logit cache")
        ranks.wait()  # until the first has stored the last
        return total

    def _missing(self, classes: Mapping[int, Collection[int]]) -> dict[int, NDArray[np.int64]]:
        """Views of each teacher that are asked for and not stored."""
        store, missing = self.store, {}
        for k, ids in classes.items():
            samples = np.isin(self._shown.train.labels, list(ids))
            missing[k] = np.flatnonzero(~store.stored(k) & samples[:, None])
        return missing

    def _computed(
        self, teacher: int, views: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """``views`` part by part, a batch for each rank, and their logits (n, C_k).

        Batches are those of a single process, so that rounding does not depend on the ranks.
        """
        count, most = ranks.size(), min(_FILL_BATCH, len(self._shown.train))
        parts = np.split(views, range(most, len(views), most))
        batches = self._batches(np.concatenate([views[:0], *parts[ranks.rank() :: count]]), most)
        for first in range(0, len(views), count * most):
            part = views[first : first + count * most]
            own = self._logits_of_next(teacher, batches, most)
            # Row by row of each rank's batch, since that is how ranks share a batch elsewhere.
            rows = gather_rows(own, count * most).unflatten(0, (most, count))
            yield part, rows.transpose(0, 1).flatten(0, 1)[: len(part)]

    def _logits_of_next(self, teacher: int, batches: Iterator[Batch], most: int) -> Tensor:
        """Logits of the next batch, if there is one, followed by zeros: (most, C_k)."""
        logits = torch.zeros(most, len(self[teacher].classes), device=self.device)
        batch = next(batches, None)
        if batch is None:
            size = self._shown.image_size
            super().stand_by(teacher, logits.new_zeros(1, 3, size, size))
        else:
            images = batch.images
            logits[: len(images)] = self.logits(teacher, images, eager=len(images) < most)
        return logits

    def _batches(self, views: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        if not len(views):
            return iter(())
        data = self._shown
        loader = Loader(
            data.train,
            batch_size=batch_size,
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            augment=self._augment,
            device=self.device,
        )
        return loader.numbered(*np.divmod(views, self.store.views))

    @property
    def _shown(self) -> DataSet:
        """The data set whose logits are stored."""
        assert self._data is not None  # the store is open
        return self._data

    def _check_may_compute(self, teacher: int) -> None:
        """Refuse to compute logits that are missing in a training, or warn of the cost."""
        if self._running[teacher].sharded:
            raise UserError(
                f"{self.folder} lacks logits of teacher {teacher} ({self[teacher].name}), which is "
                "sharded and runs only on all ranks together; expected all logits that training "
                "needs, see edufast teach --cache"
            )
        if ranks.size() > 1 and ranks.is_first() and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.folder} lacks logits of teacher {teacher} ({self[teacher].name}); they are "
                "computed at every step, since several processes store none in a training: "
                "edufast teach --cache stores them beforehand",
                stacklevel=4,
            )
