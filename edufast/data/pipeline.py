"""Batches for training and validation.

Python chooses the samples and their views, a few numbers per batch. Images that are arrays stay on
the device, where an operator makes batches of them (:mod:`edufast.data.resident`). Image files, and
arrays too large for that, go through NVIDIA DALI (:mod:`edufast.data.dali`). Everything random is a
function of (seed, epoch, batch), so a loader has no state to save and can resume at any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data.augment import Augment, Views, draw_views, numbered_views
from edufast.data.batch import Batch, BatchMaker, Plan
from edufast.data.dali import DaliImages
from edufast.data.resident import ResidentImages, fits
from edufast.data.samples import Samples
from edufast.data.sampling import Sampler
from edufast.utils.instances import check_instance
from edufast.utils.numbers import whole_number, whole_numbers
from edufast.utils.ranks import own_rows


class Loader:
    """Batches of one split.

    Args:
        samples: the split.
        sampler: the order as a function of the epoch; None: all samples as they are stored.
        batch_size: samples per batch; the last batch of an epoch may have fewer.
        image_size: height and width of the images. Arrays must have this size; files are decoded,
            resized (bilinear, antialiased) and cropped to it.
        mean: per channel, of pixel / 255.
        std: per channel, of pixel / 255.
        augment: random views; None: none (validation).
        seed: of the views; the sampler has its own.
        device: "cpu" or a CUDA device, which then decodes files as well.
        groups: class lists; the samples of a batch are sorted by group, so that each group is a
            slice of rows whose bounds are known on the CPU. Empty: not sorted.
        drop_last: leave out an incomplete last batch.
        spread: whether each rank of a distributed training makes its own rows of a batch only, see
            :func:`edufast.utils.ranks.own_rows`. A batch of fewer rows than ranks is left out where
            none is left.
        num_threads: of DALI. The batches do not depend on it.

    Attributes:
        batch_size: as given.

    Raises:
        UserError: DALI is needed (for image files, or on a GPU for arrays of more than a quarter of
            its memory) and not installed.
        ValueError: an argument does not fit the samples.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        sampler: Sampler | None = None,
        batch_size: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        groups: Sequence[Sequence[int]] = (),
        drop_last: bool = False,
        spread: bool = False,
        num_threads: int = 2,
    ) -> None:
        check_instance("samples", samples, Samples)
        batch_size = whole_number("batch_size", batch_size, 1, 2**31 - 1)
        image_size = whole_number("image_size", image_size)
        num_threads = whole_number("num_threads", num_threads)
        check_instance("drop_last", drop_last, bool)
        check_instance("spread", spread, bool)
        if sampler is not None and not (callable(sampler) and hasattr(sampler, "__len__")):
            raise TypeError(f"sampler is of type {type(sampler).__name__}; expected a Sampler")
        if augment is not None:
            check_instance("augment", augment, Augment)
        if not len(samples):
            raise ValueError("samples: expected at least one, got none")
        if isinstance(samples.images, np.ndarray):
            if samples.images.shape[1:3] != (image_size, image_size):
                height, width = samples.images.shape[1:3]
                raise ValueError(f"image_size: {image_size}, but the images are {height}x{width}")
            if augment is not None and augment.random_resized_crop is not None:
                raise ValueError("augment.random_resized_crop: for image files only, not arrays")
        self._samples = samples
        self._sampler = sampler
        self.batch_size = batch_size
        self._augment = augment or Augment(pad=0, flip=False)
        self._seed = whole_number("seed", seed, 0)
        self._group_of = _group_of(samples.labels, groups)
        self._groups = len(groups)
        self._drop_last = drop_last
        self._own = own_rows() if spread else slice(None)
        if len(self) == 0:
            raise ValueError(f"batch_size: {batch_size} leaves no batch of {self._epoch_length()}")
        device = _usable(torch.device(device))
        self._maker: BatchMaker
        if isinstance(samples.images, np.ndarray) and fits(samples.images, device):
            self._maker = ResidentImages(
                samples.images, mean=mean, std=std, augment=self._augment, device=device
            )
        else:
            self._maker = DaliImages(
                samples,
                batch_size=len(range(batch_size)[self._own]),
                image_size=image_size,
                mean=mean,
                std=std,
                augment=self._augment,
                device=device,
                num_threads=num_threads,
            )
        self._running: object = None  # the newest of the epochs

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self._epoch_length(), self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on, whether or not the earlier ones were
        read. Starting an epoch ends the previous one.

        Raises:
            ValueError: ``epoch`` or ``start`` is no integer or out of range, or the sampler visits
                a class that is in none of the groups.
            UnreadableImage: an image file cannot be read or decoded; the message names it.
        """
        epoch = whole_number("epoch", epoch, 0)
        start = whole_number("start", start, 0, len(self))
        order = np.arange(len(self._samples)) if self._sampler is None else self._sampler(epoch)
        if self._groups and self._group_of[order].max() == self._groups:
            missing = self._samples.labels[order[self._group_of[order].argmax()]]
            raise ValueError(f"groups: class {missing} is in none, but the sampler visits it")
        return self._batches(self._plan(order, epoch, start))

    def numbered(self, samples: NDArray[np.int64], numbers: NDArray[np.int64]) -> Iterator[Batch]:
        """Views ``numbers`` (N,) of ``samples`` (N,) in this order, in batches; ends the epoch.

        Views must be countable, see :attr:`edufast.data.Augment.views`.
        """
        ends = range(self.batch_size, len(samples) + self.batch_size, self.batch_size)
        parts = (slice(end - self.batch_size, end) for end in ends)
        return self._batches(
            self._planned(samples[p], numbered_views(self._augment, samples[p], numbers[p]))
            for p in parts
        )

    def _batches(self, plans: Iterator[Plan]) -> Iterator[Batch]:
        running = self._running = object()
        batches = self._maker.batches(plans)
        while True:
            if running is not self._running:
                raise RuntimeError("this epoch was ended by a newer one of the same loader")
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _plan(self, order: NDArray[np.int64], epoch: int, start: int) -> Iterator[Plan]:
        for number in range(start, len(self)):
            index = order[number * self.batch_size :][: self.batch_size]
            parts: list[int] = []
            if self._groups:
                groups = self._group_of[index]
                index = index[groups.argsort(kind="stable")]
                parts = np.bincount(groups, minlength=self._groups).tolist()
            views = draw_views(self._augment, index, seed=self._seed, epoch=epoch, iteration=number)
            plan = self._planned(index, views, tuple(parts), self._own)
            if len(plan.own_samples):
                yield plan

    def _planned(
        self,
        samples: NDArray[np.int64],
        views: Views,
        parts: tuple[int, ...] = (),
        own: slice = slice(None),
    ) -> Plan:
        views = views[own]
        view_ids = self._view_ids(samples[own], views)
        return Plan(samples, self._samples.labels[samples], views, view_ids, parts, own)

    def _view_ids(self, samples: NDArray[np.int64], views: Views) -> Tensor | None:
        if views.numbers is None or self._augment.views is None:
            return None
        return torch.from_numpy(samples * self._augment.views + views.numbers)

    def _epoch_length(self) -> int:
        return len(self._samples) if self._sampler is None else len(self._sampler)


def _group_of(labels: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """(N,) the group of each sample; ``len(groups)`` for those in none."""
    group_of = np.full(len(labels), len(groups))
    for number, classes in enumerate(groups):
        members = np.isin(labels, whole_numbers(f"groups[{number}]", classes, least=0))
        if (group_of[members] != len(groups)).any():
            raise ValueError(
                f"groups[{number}] has a class of an earlier group; expected each once"
            )
        group_of[members] = number
    return group_of


def _usable(device: torch.device) -> torch.device:
    """A device that batches can be made on; a GPU by its number."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device}; expected cpu or cuda")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
