"""The samples of an epoch and their order, as functions of (seed, epoch) without state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edufast.data.rng import Stream, generator
from edufast.utils.numbers import real_number, real_numbers, whole_number, whole_numbers


class Sampler(Protocol):
    """Maps the number of an epoch to the ``len`` positions in the split that it visits."""

    def __call__(self, epoch: int) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...


class MixedSampler:
    """Whole batches over all ``groups``, each with the same number of samples of each group.

    The numbers follow ``weights`` (largest remainder, at least one), so that all batches have the
    same mixture, and each teacher sees equally many images in each. A batch is sorted by group.
    Each group is an endless sequence of passes, each a new permutation of its samples: an epoch
    continues where the previous one stopped, and no sample repeats within a pass unless its class
    is rare and ``balance`` says so.

    Args:
        labels: (N,) integer labels of the whole split.
        groups: the labels of each group; a label belongs to at most one.
        batch_size: samples per batch, at most those of an epoch.
        seed: of the permutations.
        samples_per_epoch: rounded down to whole batches; None: the number of samples in all groups.
        weights: of the groups, above 0; None: their numbers of samples.
        balance: see :func:`repeated`.

    Raises:
        ValueError: no group, an empty one, a label in two or without samples, ``samples_per_epoch``
            below 1, or batches smaller than the number of groups.
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        groups: Sequence[Iterable[int]],
        *,
        batch_size: int,
        seed: int,
        samples_per_epoch: int | None = None,
        weights: Sequence[float] | None = None,
        balance: float = 0.0,
    ) -> None:
        if samples_per_epoch is not None:
            samples_per_epoch = whole_number("samples_per_epoch", samples_per_epoch)
        batch_size, seed = whole_number("batch_size", batch_size), whole_number("seed", seed, 0)
        if weights is not None:
            weights = _positive(weights, len(groups))
        members = [_samples_of(labels, classes) for classes in groups]
        if not members:
            raise ValueError("groups: expected at least one group of classes, got none")
        together = np.concatenate(members)
        if len(np.unique(together)) < len(together):
            raise ValueError("groups: a class is in two groups; expected each in one")
        length = samples_per_epoch or len(together)
        members = [repeated(samples, labels, balance) for samples in members]
        self.batch_size = min(batch_size, length)
        self._batches = length // self.batch_size
        self.quotas = _apportioned(self.batch_size, weights or [len(m) for m in members])
        self._groups = [_Passes(samples, seed, group) for group, samples in enumerate(members)]

    def __len__(self) -> int:
        return self._batches * self.batch_size

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        first, last = epoch * self._batches, (epoch + 1) * self._batches
        drawn = [
            group(first * quota, last * quota).reshape(self._batches, quota)
            for group, quota in zip(self._groups, self.quotas, strict=True)
        ]
        return np.concatenate(drawn, axis=1).reshape(-1)


class ClassSampler:
    """All samples of ``classes`` in the split's order, the same in every epoch: for validation.

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
    """One class slice after the other within an epoch, each shuffled: the authors' order.

    Each slice is an endless sequence of passes, as in :class:`MixedSampler`.
    ``samples_per_epoch``, or the number of samples, is rounded down to whole batches of
    ``batch_size`` and divided among the slices in proportion to their samples, those of rare
    classes counted as often as ``balance`` says, see :func:`repeated`.

    Raises:
        ValueError: no slice, an empty slice, a class without samples, or ``samples_per_epoch`` too
            small to give each slice a sample.
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        slices: Sequence[Iterable[int]],
        *,
        batch_size: int = 1,
        seed: int,
        samples_per_epoch: int | None = None,
        balance: float = 0.0,
    ) -> None:
        if not slices:
            raise ValueError("slices: expected at least one class slice, got none")
        seed, batch_size = whole_number("seed", seed, 0), whole_number("batch_size", batch_size)
        members = [_samples_of(labels, classes) for classes in slices]
        total = sum(map(len, members))
        if samples_per_epoch is not None:
            total = whole_number("samples_per_epoch", samples_per_epoch)
        # An incomplete batch would be left out, and with it the end of the last slice.
        total -= total % min(batch_size, total)
        members = [repeated(samples, labels, balance) for samples in members]
        share = total / sum(map(len, members))
        ends = np.rint(np.cumsum([0, *map(len, members)]) * share).astype(int)
        self._lengths = np.diff(ends).tolist()
        if min(self._lengths) < 1:
            raise ValueError(f"samples_per_epoch: {total} leaves a slice of {len(slices)} empty")
        self._slices = [_Passes(samples, seed, number) for number, samples in enumerate(members)]

    def __len__(self) -> int:
        return sum(self._lengths)

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        drawn = [
            passes(epoch * length, (epoch + 1) * length)
            for passes, length in zip(self._slices, self._lengths, strict=True)
        ]
        return np.concatenate(drawn)


def repeated(
    samples: NDArray[np.int64], labels: NDArray[np.integer], balance: float
) -> NDArray[np.int64]:
    """``samples`` with those of rare classes several times.

    A sample of a class with n samples in the split is there (m / n) ** balance times, rounded,
    where m is the largest n of any class: 0 leaves the samples as they are, 1 makes all classes
    about equally frequent. With 1/2 this is repeat-factor sampling (Gupta et al. 2019, LVIS,
    section 4.2).

    Args:
        samples: (N,) positions in the split.
        labels: of the whole split.
        balance: from 0 to 1.
    """
    if not 0 <= real_number("balance", balance) <= 1:
        raise ValueError(f"balance is {balance}; expected a number from 0 to 1")
    counts = np.bincount(labels)
    times = np.rint((counts.max() / counts[labels[samples]]) ** balance).astype(np.int64)
    return samples.repeat(times)


class _Passes:
    """An endless sequence of permutations of ``samples``, read in parts."""

    def __init__(self, samples: NDArray[np.int64], seed: int, stream: int) -> None:
        self._samples, self._seed, self._stream = samples, seed, stream

    def __call__(self, begin: int, end: int) -> NDArray[np.int64]:
        size = len(self._samples)
        first, last = begin // size, (end - 1) // size
        passes = np.concatenate([self._pass(number) for number in range(first, last + 1)])
        return passes[begin - first * size : end - first * size]

    def _pass(self, number: int) -> NDArray[np.int64]:
        rng = generator(self._seed, Stream.ORDER, number, self._stream)
        return rng.permutation(self._samples)


def _positive(weights: Sequence[float], count: int) -> tuple[float, ...]:
    found = real_numbers("weights", weights)
    if len(found) != count or not all(found):
        raise ValueError(f"weights is {weights}; expected {count} numbers above 0, one for a group")
    return found


def _apportioned(total: int, sizes: Sequence[float]) -> list[int]:
    """``total`` in proportion to ``sizes``: whole numbers by largest remainder, at least 1 each."""
    if total < len(sizes):
        raise ValueError(
            f"batch_size: {total} is less than the {len(sizes)} groups of classes; expected at "
            "least one sample of each in a batch"
        )
    ideal = np.array(sizes) * total / sum(sizes)
    shares = np.maximum(np.floor(ideal), 1).astype(int)
    while shares.sum() != total:
        excess = ideal - shares
        if shares.sum() < total:
            shares[excess.argmax()] += 1
        else:
            shares[np.where(shares > 1, excess, np.inf).argmin()] -= 1
    return shares.tolist()


def _samples_of(labels: NDArray[np.integer], classes: Iterable[int]) -> NDArray[np.int64]:
    """Positions of the samples whose label is in ``classes``, ascending."""
    wanted = np.unique(np.array(whole_numbers("classes", classes, least=0), dtype=np.int64))
    if not len(wanted):
        raise ValueError("classes: expected at least one class, got none")
    missing = np.setdiff1d(wanted, labels)
    if len(missing):
        raise ValueError(f"classes: class {missing[0]} has no sample")
    return np.flatnonzero(np.isin(labels, wanted)).astype(np.int64)
