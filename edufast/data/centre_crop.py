"""What validation shows of a picture: the rule, and the same picture without DALI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Large pictures are resized to 256 for a crop of 224; small ones are not cropped.
CENTRE_SHARE, _CENTRE_FROM = 224 / 256, 128


@dataclass(frozen=True)
class CentreCrop:
    """A picture is scaled, its aspect ratio kept, until it just covers ``cover``; of that, the
    centre is what the model sees.

    Attributes:
        cover: (height, width) in pixels.
        crop: (height, width) in pixels of the centre, at most ``cover``.
    """

    cover: tuple[int, int]
    crop: tuple[int, int]

    @classmethod
    def to(cls, height: int, width: int) -> CentreCrop:
        """The rule of validation for images of this size."""
        if min(height, width) < _CENTRE_FROM:
            return cls((height, width), (height, width))
        return cls((round(height / CENTRE_SHARE), round(width / CENTRE_SHARE)), (height, width))

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON types, for a file's metadata."""
        return {
            "cover": list(self.cover),
            "crop": list(self.crop),
            "position": "centre",
            "filter": "bilinear, antialiased",
        }

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> CentreCrop:
        """The rule that :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        (cover_height, cover_width), (height, width) = said["cover"], said["crop"]
        if not (0 < height <= cover_height and 0 < width <= cover_width):
            raise ValueError(f"crop is {said['crop']}; expected at most {said['cover']}")
        return cls((int(cover_height), int(cover_width)), (int(height), int(width)))

    def __call__(self, picture: Image.Image) -> NDArray[np.uint8]:
        """What validation sees of an RGB picture, (height, width, 3).

        Differs from DALI by 1 of 255 at most, but for the outermost pixels of pictures that are
        made several times smaller.
        """
        from PIL.Image import Resampling

        scale = max(self.cover[0] / picture.height, self.cover[1] / picture.width)
        top, bottom = _span(picture.height, scale, self.crop[0])
        left, right = _span(picture.width, scale, self.crop[1])
        height, width = self.crop
        box = (left, top, right, bottom)
        return np.asarray(picture.resize((width, height), Resampling.BILINEAR, box))


def _span(length: int, scale: float, crop: int) -> tuple[float, float]:
    """The part of ``length`` pixels that becomes the ``crop`` pixels at their centre.

    Of an odd number of pixels, DALI cuts off one more at the beginning. Of a single one it may thus
    see a quarter of a pixel beyond the end, for which the part is moved here.
    """
    odd, part = (round(length * scale) - crop) % 2, crop / scale
    start = max(min((length - part + odd / scale) / 2, length - part), 0.0)
    return start, min(start + part, float(length))
