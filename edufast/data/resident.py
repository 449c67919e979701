"""Batches from images that stay on the device as bytes; needs no DALI.

One operator makes a batch from positions and numbers of views: see :func:`edufast.ops.augment`.
On the CPU that is done when the batch is asked for, in a fifth of DALI's processor time for images
of 32 pixels; on a GPU nothing is waited for. The images are those of DALI on the CPU, bit for bit.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edufast.data.augment import Augment, shift_numbers
from edufast.data.batch import Batch, Plan
from edufast.ops import augment as make_batch

# Of a GPU's memory, for one split: there are two of them, and the networks.
SHARE = 1 / 4


def fits(images: NDArray[np.uint8], device: torch.device) -> bool:
    """Whether ``images`` may stay on ``device``: on a GPU if they take at most a quarter of its
    memory; on the CPU always, where they are not copied."""
    if device.type != "cuda":
        return True
    return images.nbytes <= SHARE * torch.cuda.get_device_properties(device).total_memory


class ResidentImages:
    """Batches of a split of arrays.

    Args:
        images: (N, H, W, 3). Loaders of the same array share what is on the device.
        mean: per channel, of pixel / 255.
        std: per channel, of pixel / 255.
        augment: shifts and flips.
        device: of the batches.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment,
        device: torch.device,
    ) -> None:
        self._images = _on_device(images, device)
        self._mean, self._std, self._augment, self._device = mean, std, augment, device

    def batches(self, plans: Iterator[Plan]) -> Iterator[Batch]:
        """One for each plan, in order."""
        for plan in plans:
            number = shift_numbers(self._augment, plan.views)
            labels, index, views = plan.numbers(self._device, number)
            images = make_batch(
                self._images.bytes,
                index[plan.own],
                views,
                pad=self._augment.pad,
                flip=self._augment.flip,
                mean=self._mean,
                std=self._std,
            )
            yield plan.batch(images, labels, index)


class _OnDevice:
    """An array, and its bytes on a device. While this lives, so does the array, and no other has
    its address."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self.images = images
        with warnings.catch_warnings():  # torch says that it may be written to: it is not
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.bytes: Tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)


_SHARED: weakref.WeakValueDictionary[tuple[int, torch.device], _OnDevice]
_SHARED = weakref.WeakValueDictionary()


def _on_device(images: NDArray[np.uint8], device: torch.device) -> _OnDevice:
    key = id(images), device
    found = _SHARED.get(key)
    if found is None:
        found = _SHARED[key] = _OnDevice(images, device)
    return found
