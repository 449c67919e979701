"""Batches prepared by NVIDIA DALI ahead of the model: it reads, decodes, crops, mirrors and
normalises in its own threads while the model trains. For image files, and for arrays that are too
large to stay on a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data.augment import Augment
from edufast.data.batch import Batch, Plan
from edufast.data.centre_crop import CentreCrop
from edufast.data.image_files import Encoded, UnreadableImage, files_of, unreadable
from edufast.data.samples import Samples
from edufast.utils.extras import needed_for

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.data_node import DataNode

PREFETCH = 2  # batches DALI prepares ahead


class DaliImages:
    """Batches of a split.

    Args:
        samples: the split.
        batch_size: largest number of samples in a batch.
        image_size: height and width of the images; files are decoded, resized (bilinear,
            antialiased) and cropped to it.
        mean: per channel, of pixel / 255.
        std: per channel, of pixel / 255.
        augment: random views.
        device: of the batches; a CUDA device decodes files as well.
        num_threads: of DALI.

    Raises:
        UserError: DALI is not installed.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment,
        device: torch.device,
        num_threads: int,
    ) -> None:
        _require_dali(samples, device)
        self._samples = samples
        self._batch_size = batch_size
        self._image_size = image_size
        self._mean, self._std = mean, std
        self._device = device
        self._num_threads = num_threads
        self._feed = _Feed(samples.images, augment)
        self._pipeline: Pipeline | None = None

    def batches(self, plans: Iterator[Plan]) -> Iterator[Batch]:
        """One for each plan, in order. A newer call ends the older.

        Raises:
            UnreadableImage: an image file cannot be read or decoded; the message names it.
        """
        plans, ahead = itertools.tee(plans)
        pipeline = self._rewind(ahead)
        try:
            for plan in plans:
                try:
                    images = self._run(pipeline)
                except RuntimeError as error:
                    self._pipeline = None  # it is dead; the next epoch builds another
                    in_flight = [plan, *itertools.islice(plans, PREFETCH)]
                    raise self._explain(error, in_flight) from error
                labels, index = plan.numbers(self._device)
                yield plan.batch(images, labels, index)
        finally:
            if self._feed.plans is ahead:  # the rest of it would keep the loader alive
                self._feed.plans = iter(())

    def _run(self, pipeline: Pipeline) -> Tensor:
        """The next batch, (B, 3, H, W) in channels_last, sharing DALI's memory."""
        cuda = self._device.type == "cuda"
        (images,) = pipeline.run(torch.cuda.current_stream(self._device) if cuda else None)
        return torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    def _rewind(self, plans: Iterator[Plan]) -> Pipeline:
        """Discard what an unfinished epoch left in the queue, and start with ``plans``."""
        pipeline, self._pipeline = self._pipeline, None
        self._feed.plans = iter(())
        if pipeline is not None:
            try:
                while True:
                    pipeline.run()
            except StopIteration:
                pipeline.reset()
            except RuntimeError:  # a batch of the unfinished epoch failed
                pipeline = None
        self._pipeline = pipeline or self._build()
        self._feed.plans = plans
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

    def _explain(self, error: RuntimeError, in_flight: list[Plan]) -> Exception:
        """DALI rarely names the file that failed, so try those of the batches in flight."""
        files = files_of(self._samples)
        if not files:
            return error
        index = np.concatenate([plan.own_samples for plan in in_flight])
        found = unreadable(list(dict.fromkeys(files[i] for i in index)), self._device)
        return UnreadableImage(*found) if found else error


class _Feed:
    """Called by DALI for the inputs of its next batch. It is separate from the loader so that the
    pipeline holds no reference to the loader, and both are freed at once."""

    def __init__(self, images: NDArray[np.uint8] | tuple[Path, ...], augment: Augment) -> None:
        self.plans: Iterator[Plan] = iter(())
        self._images = images
        self.encoded = Encoded(() if isinstance(images, np.ndarray) else images)
        # The fields of Views that the pipeline reads.
        self.views = ["flip"]
        if augment.random_resized_crop is not None:
            self.views.append("box")
        elif augment.pad:
            self.views.append("shift")

    def __call__(self, _: int) -> tuple[Any, ...]:
        plan = next(self.plans)  # StopIteration ends DALI's epoch
        if isinstance(self._images, np.ndarray):
            source: Any = self._images[plan.own_samples]
        else:
            source = [self.encoded(self._images[i]) for i in plan.own_samples]
        return source, *(getattr(plan.views, name) for name in self.views)


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


def _require_dali(samples: Samples, device: torch.device) -> None:
    what = "reading image files"
    if isinstance(samples.images, np.ndarray):
        what = (
            f"{samples.images.nbytes / 1e9:.0f} GB of images are more than a quarter of the "
            f"memory of {device}; loading them batch by batch"
        )
    with needed_for(what, "train"):
        import nvidia.dali  # noqa: F401
