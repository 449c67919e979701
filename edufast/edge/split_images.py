"""Images of a split as an exported file takes them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edufast.data import Loader, Samples
from edufast.data.centre_crop import CentreCrop
from edufast.edge.parity import BATCH

_KEPT = 2**29  # bytes, of images that are kept when they are decoded


class SplitImages:
    """Slices of it are (n, H, W, 3) uint8, cropped and resized as in validation.

    Every exported file is compared on all of them: files are decoded when the first is asked for,
    and kept. Where they take too much memory, they are decoded whenever they are asked for.

    Args:
        samples: the split.
        index: (N,) positions in it.
        image_size: height and width in pixels; arrays of another size are resized as a whole, as
            a student does in a grade of smaller images.

    Attributes:
        files: (N,) those that they are decoded from; none if they are arrays.

    Raises:
        UserError: DALI is not installed, which reads image files.
    """

    def __init__(self, samples: Samples, index: NDArray[np.int64], image_size: int) -> None:
        self._images, self._index = samples.images, index
        self._keeps = 3 * image_size**2 * len(index) <= _KEPT
        self._whole = CentreCrop((image_size, image_size), (image_size, image_size))
        self.files: tuple[Path, ...] = ()
        if isinstance(self._images, np.ndarray):
            return
        self.files = tuple(self._images[i] for i in index)
        # With these constants a normalised pixel is the byte itself.
        self._loader = Loader(
            samples,
            batch_size=BATCH,
            image_size=image_size,
            mean=(0.0, 0.0, 0.0),
            std=(1 / 255, 1 / 255, 1 / 255),
        )

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        """
        Raises:
            UnreadableImage: an image file cannot be read or decoded; the message names it.
        """
        if isinstance(self._images, np.ndarray):
            images = self._images[self._index[part]]
            if images.shape[1:3] == self._whole.crop:
                return images
            from PIL import Image

            return np.stack([self._whole(Image.fromarray(image)) for image in images])
        return self._all[part] if self._keeps else self._decoded(self._index[part])

    @cached_property
    def _all(self) -> NDArray[np.uint8]:
        return self._decoded(self._index)

    def _decoded(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        batches = self._loader.numbered(index, np.zeros(len(index), np.int64))
        pixels = [batch.images.permute(0, 2, 3, 1).round().clamp(0, 255) for batch in batches]
        return np.concatenate([each.byte().numpy() for each in pixels])
