"""Which samples an epoch visits, in which order: functions of (seed, epoch) without state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edufast.data.rng import Stream, generator


class Sampler(Protocol):
    """Maps an epoch's number to the data set's indices it visits, always ``len`` many."""

    def __call__(self, epoch: int) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...


class MixedSampler:
    """All samples of ``classes``, shuffled together.

    The epochs read one endless sequence of passes, each a new permutation of the samples: with
    ``samples_per_epoch`` an epoch takes that many from where the last one stopped, and no sample
    comes up again within a pass. Without it an epoch is a pass.

    Args:
        labels: (N,) integer labels of the whole split.
        classes: the labels to visit.
        seed: of the permutations.
        samples_per_epoch: length of an epoch; None: the number of samples in ``classes``.

    Raises:
        ValueError: no class given, one without samples, or ``samples_per_epoch`` below 1.
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        classes: Iterable[int],
        seed: int,
        samples_per_epoch: int | None = None,
    ) -> None:
        self._samples = _samples_of(labels, classes)
        self._seed = seed
        self._length = len(self._samples) if samples_per_epoch is None else samples_per_epoch
        if self._length < 1:
            raise ValueError(f"samples_per_epoch: expected at least 1, got {samples_per_epoch}")

    def __len__(self) -> int:
        return self._length

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        begin, end = epoch * self._length, (epoch + 1) * self._length
        size = len(self._samples)
        first, last = begin // size, (end - 1) // size
        passes = np.concatenate([self._pass(number) for number in range(first, last + 1)])
        return passes[begin - first * size : end - first * size]

    def _pass(self, number: int) -> NDArray[np.int64]:
        return generator(self._seed, Stream.ORDER, number).permutation(self._samples)


class ClassSampler:
    """All samples of ``classes``, in the split's order, the same every epoch: for validation.

    Raises:
        ValueError: no class given, or one without samples.
    """

    def __init__(self, labels: NDArray[np.integer], classes: Iterable[int]) -> None:
        self._samples = _samples_of(labels, classes)

    def __len__(self) -> int:
        return len(self._samples)

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        return self._samples


class SliceSampler:
    """Class slice after class slice within an epoch, shuffled inside each: the authors' order.

    Every slice is a :class:`MixedSampler` of its own. ``samples_per_epoch`` is shared between
    the slices in proportion to their samples.

    Raises:
        ValueError: no slice, an empty slice, a class without samples, or fewer
            ``samples_per_epoch`` than give each slice one.
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        slices: Sequence[Iterable[int]],
        seed: int,
        samples_per_epoch: int | None = None,
    ) -> None:
        if not slices:
            raise ValueError("slices: expected at least one class slice, got none")
        members = [list(classes) for classes in slices]
        sizes = [len(_samples_of(labels, classes)) for classes in members]
        if samples_per_epoch is not None:
            ends = np.rint(np.cumsum([0, *sizes]) * samples_per_epoch / sum(sizes)).astype(int)
            sizes = np.diff(ends).tolist()
            if min(sizes) < 1:
                raise ValueError(
                    f"samples_per_epoch: {samples_per_epoch} leaves a slice of {len(slices)} empty"
                )
        self._slices = [
            MixedSampler(labels, classes, seed, size)
            for classes, size in zip(members, sizes, strict=True)
        ]

    def __len__(self) -> int:
        return sum(len(sampler) for sampler in self._slices)

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        return np.concatenate([sampler(epoch) for sampler in self._slices])


def _samples_of(labels: NDArray[np.integer], classes: Iterable[int]) -> NDArray[np.int64]:
    """The indices whose label is in ``classes``, ascending."""
    wanted = np.unique(np.fromiter(classes, dtype=np.int64))
    if not len(wanted):
        raise ValueError("classes: expected at least one class, got none")
    missing = np.setdiff1d(wanted, labels)
    if len(missing):
        raise ValueError(f"classes: class {missing[0]} has no sample")
    return np.flatnonzero(np.isin(labels, wanted)).astype(np.int64)
