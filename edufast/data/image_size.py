"""The image size where a recipe does not give one."""

from __future__ import annotations

import numpy as np

from edufast.data.outline import PHOTOGRAPH, outline
from edufast.data.samples import DataSet, Splits

_SIZES = (32, 48, 64, 96, 128)
_LEAST = 8  # pixels, below which networks have nothing to reduce


def usual_size(source: str, found: Splits | DataSet) -> int:
    """Height and width of the images of a recipe that leaves no decisions open."""
    if isinstance(found, DataSet):
        return found.image_size
    known = outline(source)
    if known is not None:
        return known.image_size
    images = found.train.images
    return max(images.shape[1:3]) if isinstance(images, np.ndarray) else PHOTOGRAPH


def sizes_to_decide(side: int | None, learned_at: int | None = None) -> list[int]:
    """Heights and widths, ascending, of which one is chosen by the time that there is.

    Args:
        side: median of the pictures' shorter side in pixels; None: not known.
        learned_at: height and width of the images that the network's weights learned from, if it
            has any.
    """
    side = side or _SIZES[0]
    if learned_at is None:
        return [size for size in _SIZES if size <= side] or [max(_LEAST, side)]
    most = min(side, learned_at)
    return sorted({*(size for size in _SIZES if size <= most), max(_LEAST, most)})
