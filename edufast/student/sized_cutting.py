"""A model's fragments, for whole images or for smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from edufast.models.cutting import cut
from edufast.utils.numbers import whole_numbers


class SizedCutting:
    """A model cut into fragments, which can be resized: ``cutting.image_size = 16``.

    Traced code depends on the sizes of feature maps, so each image size has its own fragments. They
    share the same weights.

    Args:
        model: to cut; see :func:`edufast.models.cutting.cut`.
        count: number of fragments.
        input_size: shape of one whole image.
        cuts: module paths after which to cut; None: fragments of about equal FLOPs.

    Attributes:
        whole: the fragments for whole images.
        current: those for the current image size.

    Raises:
        UserError: the model cannot be cut as requested.
    """

    def __init__(
        self,
        model: nn.Module,
        count: int,
        input_size: Sequence[int],
        cuts: Sequence[str] | None = None,
    ) -> None:
        self._model = model
        self.input_size = whole_numbers("input_size", input_size)
        self.whole = self.current = cut(model, count, input_size=self.input_size, cuts=cuts)
        self._image_size: int | None = None

    @property
    def image_size(self) -> int | None:
        """Height and width of smaller images; None: whole images.

        Raises:
            UserError: the model does not take images of this size.
            ValueError: it is larger than that of whole images.
        """
        return self._image_size

    @image_size.setter
    def image_size(self, size: int | None) -> None:
        channels, *whole = self.input_size
        if size is not None and not (len(whole) == 2 and 1 <= size <= min(whole)):
            raise ValueError(
                f"image_size is {size}; expected at most that of the student's images, "
                f"{self.input_size}"
            )
        if size is None or [size, size] == whole:
            self.current, self._image_size = self.whole, None
        elif size != self._image_size:
            shape, names = (channels, size, size), self._names
            self.current = cut(self._model, len(names) + 1, input_size=shape, cuts=names)
            self._image_size = size

    def reduced(self, images: Tensor) -> Tensor:
        """Whole images (B, C, H, W) in the current size, by bilinear interpolation with
        antialiasing."""
        if self.image_size is None:
            return images
        size = self.image_size, self.image_size
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    @property
    def _names(self) -> list[str]:
        return [piece.name for piece in self.whole.fragments[:-1]]

    def __getstate__(self) -> dict[str, Any]:
        # Traced code cannot be pickled: keep the cuts, and trace again when it is loaded.
        return {**self.__dict__, "whole": self._names, "current": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        names, size = state["whole"], state["_image_size"]
        self.whole = cut(self._model, len(names) + 1, input_size=self.input_size, cuts=names)
        self.current, self._image_size = self.whole, None
        self.image_size = size
