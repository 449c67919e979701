"""Batches for training and validation, prepared by NVIDIA DALI ahead of the model.

Python chooses the samples and their views, a few numbers per batch; DALI reads, decodes, crops,
mirrors and normalises in its own threads while the model trains. Everything random is a function of
(seed, epoch, batch), so a loader has no state to save and can resume at any batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data.augment import Augment, Views, draw_views, numbered_views
from edufast.data.centre_crop import CentreCrop
from edufast.data.image_files import Encoded, UnreadableImage, files_of, unreadable
from edufast.data.samples import Samples
from edufast.data.sampling import Sampler
from edufast.utils.devices import to_device
from edufast.utils.errors import UserError

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.data_node import DataNode

PREFETCH = 2  # batches DALI prepares ahead


class Batch(NamedTuple):
    """B samples, on the loader's device."""

    images: Tensor  # (B, 3, H, W) float32, normalised, channels_last
    labels: Tensor  # (B,) int64
    index: Tensor  # type: ignore[assignment]  # (B,) int64, positions in the split; not tuple.index
    # (B,) int64 on the CPU: index * Augment.views + number of the view; None: not countable.
    views: Tensor | None = None
    parts: tuple[int, ...] = ()  # number of samples of each of the loader's groups, in order


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
        num_threads: of DALI. The batches do not depend on it.

    Raises:
        UserError: DALI is not installed.
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
        num_threads: int = 2,
    ) -> None:
        _require_dali()
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if isinstance(samples.images, np.ndarray):
            if samples.images.shape[1:3] != (image_size, image_size):
                height, width = samples.images.shape[1:3]
                raise ValueError(f"image_size: {image_size}, but the images are {height}x{width}")
            if augment is not None and augment.random_resized_crop is not None:
                raise ValueError("augment.random_resized_crop: for image files only, not arrays")
        self._samples = samples
        self._sampler = sampler
        self._batch_size = batch_size
        self._image_size = image_size
        self._mean, self._std = list(mean), list(std)
        self._augment = augment or Augment(pad=0, flip=False)
        self._seed = seed
        self._group_of = _group_of(samples.labels, groups)
        self._groups = len(groups)
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._drop_last = drop_last
        self._num_threads = num_threads
        if len(self) == 0:
            raise ValueError(f"batch_size: {batch_size} leaves no batch of {self._epoch_length()}")
        self._feed = _Feed(samples.images, self._augment)
        self._pipeline: Pipeline | None = None
        self._running: object = None  # the epoch the pipeline works for

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self._epoch_length(), self._batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on, whether or not the earlier ones were
        read. Starting an epoch ends the previous one.

        Raises:
            ValueError: ``start`` is not within the epoch, or the sampler visits a class that is in
                none of the groups.
            UnreadableImage: an image file cannot be read or decoded; the message names it.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start: expected 0 to {len(self)} batches, got {start}")
        order = np.arange(len(self._samples)) if self._sampler is None else self._sampler(epoch)
        if self._groups and self._group_of[order].max() == self._groups:
            missing = self._samples.labels[order[self._group_of[order].argmax()]]
            raise ValueError(f"groups: class {missing} is in none, but the sampler visits it")
        return self._batches(self._plan(order, epoch, start))

    def numbered(self, samples: NDArray[np.int64], numbers: NDArray[np.int64]) -> Iterator[Batch]:
        """Views ``numbers`` (N,) of ``samples`` (N,) in this order, in batches; ends the epoch.

        Views must be countable, see :attr:`edufast.data.Augment.views`.
        """
        ends = range(self._batch_size, len(samples) + self._batch_size, self._batch_size)
        parts = (slice(end - self._batch_size, end) for end in ends)
        return self._batches(
            _Plan(samples[part], numbered_views(self._augment, samples[part], numbers[part]), ())
            for part in parts
        )

    def _batches(self, plan: Iterator[_Plan]) -> Iterator[Batch]:
        plan, ahead = itertools.tee(plan)
        pipeline = self._rewind(ahead)
        running = self._running = object()
        try:
            for batch in plan:
                if running is not self._running:
                    raise RuntimeError("this epoch was ended by a newer one of the same loader")
                try:
                    images = self._run(pipeline)
                except RuntimeError as error:
                    self._pipeline = (
                        None  # a failed pipeline is dead; the next epoch builds another
                    )
                    in_flight = [batch, *itertools.islice(plan, PREFETCH)]
                    raise self._explain(error, in_flight) from error
                labels, index = self._numbers(batch)
                yield Batch(images, labels, index, self._view_ids(batch), batch.parts)
        finally:
            if running is self._running:  # the rest of a plan would keep the loader alive
                self._feed.plan = iter(())

    def _plan(self, order: NDArray[np.int64], epoch: int, start: int) -> Iterator[_Plan]:
        for number in range(start, len(self)):
            index = order[number * self._batch_size :][: self._batch_size]
            parts: list[int] = []
            if self._groups:
                groups = self._group_of[index]
                index = index[groups.argsort(kind="stable")]
                parts = np.bincount(groups, minlength=self._groups).tolist()
            views = draw_views(self._augment, index, seed=self._seed, epoch=epoch, iteration=number)
            yield _Plan(index, views, tuple(parts))

    def _numbers(self, batch: _Plan) -> tuple[Tensor, Tensor]:
        """Labels and index of a batch, in one transfer."""
        both = np.stack([self._samples.labels[batch.samples], batch.samples])
        labels, index = to_device(torch.from_numpy(both), self._device)
        return labels, index

    def _view_ids(self, batch: _Plan) -> Tensor | None:
        if batch.views.numbers is None or self._augment.views is None:
            return None
        return torch.from_numpy(batch.samples * self._augment.views + batch.views.numbers)

    def _run(self, pipeline: Pipeline) -> Tensor:
        """The next batch, (B, 3, H, W) in channels_last, sharing DALI's memory."""
        cuda = self._device.type == "cuda"
        (images,) = pipeline.run(torch.cuda.current_stream(self._device) if cuda else None)
        return torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    def _rewind(self, plan: Iterator[_Plan]) -> Pipeline:
        """Discard what an unfinished epoch left in the queue, and start with ``plan``."""
        pipeline, self._pipeline = self._pipeline, None
        self._feed.plan = iter(())
        if pipeline is not None:
            try:
                while True:
                    pipeline.run()
            except StopIteration:
                pipeline.reset()
            except RuntimeError:  # a batch of the unfinished epoch failed
                pipeline = None
        self._pipeline = pipeline or self._build()
        self._feed.plan = plan
        return self._pipeline

    def _build(self) -> Pipeline:
        from nvidia.dali import Pipeline, fn, types

        cuda = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=self._batch_size,
            num_threads=self._num_threads,
            device_id=self._device.index,
            prefetch_queue_depth=PREFETCH,
        )
        with pipeline:
            arrays = isinstance(self._samples.images, np.ndarray)
            source, *drawn = fn.external_source(
                source=self._feed,
                num_outputs=1 + len(self._feed.views),
                batch=True,
                layout=["HWC" if arrays else "", *("" for _ in self._feed.views)],
            )
            views = dict(zip(self._feed.views, drawn, strict=True))
            size, decoder = self._image_size, "mixed" if cuda else "cpu"
            if arrays:
                images = source.gpu() if cuda else source
            elif "box" in views:
                encoded = self._feed.encoded.read(source)
                images = _random_resized_crop(encoded, views["box"], size, decoder)
            else:
                images = _centre(self._feed.encoded.read(source), size, decoder)
            if "shift" in views:
                images = fn.slice(
                    images,
                    start=views["shift"],
                    shape=[size, size],
                    axes=[0, 1],
                    out_of_bounds_policy="pad",
                    fill_values=0,
                )
            images = fn.crop_mirror_normalize(
                images,
                mirror=views["flip"],
                mean=[255 * value for value in self._mean],
                std=[255 * value for value in self._std],
                dtype=types.FLOAT,
                output_layout="HWC",
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline

    def _epoch_length(self) -> int:
        return len(self._samples) if self._sampler is None else len(self._sampler)

    def _explain(self, error: RuntimeError, in_flight: list[_Plan]) -> Exception:
        """DALI rarely names the file that failed, so try those of the batches in flight."""
        files = files_of(self._samples)
        if not files:
            return error
        index = np.concatenate([batch.samples for batch in in_flight])
        found = unreadable(list(dict.fromkeys(files[i] for i in index)), self._device)
        return UnreadableImage(*found) if found else error


class _Plan(NamedTuple):
    """A batch to be prepared."""

    samples: NDArray[np.int64]  # positions in the split
    views: Views
    parts: tuple[int, ...]  # number of samples of each group


class _Feed:
    """Called by DALI for the inputs of its next batch. It is separate from the loader so that the
    pipeline holds no reference to the loader, and both are freed at once."""

    def __init__(self, images: NDArray[np.uint8] | tuple[Path, ...], augment: Augment) -> None:
        self.plan: Iterator[_Plan] = iter(())
        self._images = images
        self.encoded = Encoded(() if isinstance(images, np.ndarray) else images)
        # The fields of Views that the pipeline reads.
        self.views = ["flip"]
        if augment.random_resized_crop is not None:
            self.views.append("box")
        elif augment.pad:
            self.views.append("shift")

    def __call__(self, _: int) -> tuple[Any, ...]:
        batch = next(self.plan)  # StopIteration ends DALI's epoch
        if isinstance(self._images, np.ndarray):
            source: Any = self._images[batch.samples]
        else:
            source = [self.encoded(self._images[i]) for i in batch.samples]
        return source, *(getattr(batch.views, name) for name in self.views)


def _group_of(labels: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """(N,) the group of each sample; ``len(groups)`` for those in none."""
    group_of = np.full(len(labels), len(groups))
    for number, classes in enumerate(groups):
        group_of[np.isin(labels, list(classes))] = number
    return group_of


def _centre(encoded: DataNode, size: int, decoder: str) -> DataNode:
    from nvidia.dali import fn

    images = fn.decoders.image(encoded, device=decoder)
    rule = CentreCrop.to(size, size)
    return fn.crop(fn.resize(images, resize_shorter=rule.cover[0]), crop=rule.crop)


def _random_resized_crop(encoded: DataNode, box: DataNode, size: int, decoder: str) -> DataNode:
    """Decode the box only, and resize it. A box of the drawn area and aspect ratio that exceeds the
    image is cropped at the edge (torchvision draws again)."""
    from nvidia.dali import fn, math, types

    shape = fn.peek_image_shape(encoded, dtype=types.FLOAT)
    image_ratio = shape[1] / shape[0]
    area, ratio, y, x = (box[i] for i in range(4))
    height = math.min(math.sqrt(area * image_ratio / ratio), 1.0)
    width = math.min(math.sqrt(area * ratio / image_ratio), 1.0)
    images = fn.decoders.image_slice(
        encoded,
        rel_start=fn.stack((1.0 - height) * y, (1.0 - width) * x),
        rel_shape=fn.stack(height, width),
        axes=[0, 1],
        device=decoder,
    )
    return fn.resize(images, size=(size, size))


def _require_dali() -> None:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise UserError(
            "loading data needs NVIDIA DALI: pip install nvidia-dali-cuda130"
        ) from error
