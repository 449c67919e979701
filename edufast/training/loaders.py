"""The batches of a grade: which samples, in which order, with which augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edufast.data import ClassSampler, DataSet, Loader, MixedSampler, Sampler, SliceSampler
from edufast.data.sampling import repeated
from edufast.training.curriculum import Curriculum
from edufast.training.settings import Training


def grade_seed(seed: int, g: int) -> int:
    """Every grade of a training has its own random order and augmentation."""
    return seed * 1000 + g


def training_batches(
    data: DataSet,
    curriculum: Curriculum,
    g: int,
    groups: Sequence[Sequence[int]],
    training: Training,
    *,
    seed: int,
    device: torch.device,
) -> Loader:
    """Augmented batches of grade ``g``, all of one size.

    Args:
        data: its training split is used.
        curriculum: determines the classes, the order and the number of samples per epoch.
        g: the grade, from 0.
        groups: class ids of each group; the samples of a batch come group by group.
        training: batch size, augmentation and balance.
        seed: of the training.
        device: of the batches.
    """
    sampler = training_sampler(data, curriculum, g, groups, training, seed=seed)
    return Loader(
        data.train,
        sampler=sampler,
        # Fewer samples than a batch make one smaller batch.
        batch_size=min(training.batch_size, len(sampler)),
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        augment=training.augment,
        seed=grade_seed(seed, g),
        device=device,
        groups=groups,
        drop_last=True,
        spread=True,
    )


def training_sampler(
    data: DataSet,
    curriculum: Curriculum,
    g: int,
    groups: Sequence[Sequence[int]],
    training: Training,
    *,
    seed: int,
) -> Sampler:
    """The order of the samples of grade ``g``; the arguments are those of
    :func:`training_batches`."""
    grade, labels, seed = curriculum.grades[g], data.train.labels, grade_seed(seed, g)
    if curriculum.order == "slices":
        slices = [earlier.classes for earlier in curriculum.grades[: g + 1] if earlier.classes]
        return SliceSampler(
            labels,
            slices,
            batch_size=training.batch_size,
            seed=seed,
            samples_per_epoch=grade.samples,
            balance=training.balance,
        )
    members, weights = _mixture(labels, curriculum, g, groups, training.balance)
    return MixedSampler(
        labels,
        members,
        batch_size=training.batch_size,
        seed=seed,
        samples_per_epoch=grade.samples,
        weights=weights,
        balance=training.balance,
    )


def _mixture(
    labels: NDArray[np.integer],
    curriculum: Curriculum,
    g: int,
    groups: Sequence[Sequence[int]],
    balance: float,
) -> tuple[Sequence[Sequence[int]], list[float] | None]:
    """Groups to draw from, and their weights; None: in proportion to their samples, as balanced."""
    grade = curriculum.grades[g]
    if grade.rehearsal is None:
        return groups, None
    new = set(grade.classes)
    counts = np.bincount(labels[repeated(np.arange(len(labels)), labels, balance)])
    members, weights = [], []
    for wanted, share in ((False, grade.rehearsal), (True, 1 - grade.rehearsal)):
        parts = [[c for c in group if (c in new) == wanted] for group in groups]
        parts = [part for part in parts if part]
        total = sum(counts[part].sum() for part in parts)
        members += parts
        weights += [float(share * counts[part].sum() / total) for part in parts]
    return members, weights


def validation_batches(
    data: DataSet, curriculum: Curriculum, g: int, batch_size: int, *, device: torch.device
) -> Loader:
    """Batches of the validation samples of all classes taught up to grade ``g`` (from 0)."""
    sampler = ClassSampler(data.val.labels, curriculum.taught(g).ids)
    return Loader(
        data.val,
        sampler=sampler,
        batch_size=min(batch_size, len(sampler)),
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        device=device,
        spread=True,
    )
