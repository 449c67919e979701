"""A sheet of pictures of every class, to look at a data set."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edufast.data.centre_crop import CentreCrop
from edufast.data.image_files import UnreadableImage
from edufast.data.pictures import read_picture
from edufast.data.samples import Samples
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write
from edufast.utils.progress import counting

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_A_CLASS = 8  # pictures
_SIDE, _GAP, _TEXT, _MOST_LETTERS = 96, 4, 14, 40  # pixels; letters of a class's name


def check_path(path: Path) -> None:
    """Raise `UserError` unless a contact sheet can be called ``path``."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--contact-sheet is {str(path)!r}; expected a name that ends in .png")


def write_contact_sheet(
    path: Path, samples: Samples, classes: Sequence[str], without: Container[Path] = ()
) -> None:
    """Write a PNG file with a row for each class: its name, and at most 8 of its images, evenly
    spaced over them.

    Args:
        path: the file to write.
        samples: the images to choose from.
        classes: names.
        without: files that cannot be decoded.
    """
    from PIL import Image, ImageDraw

    names = [name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS]}…" for name in classes]
    font = _font()
    margin = 3 * _GAP + int(max(font.getlength(name) for name in names))
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (margin + _A_CLASS * step, _GAP + len(names) * step), "white")
    draw = ImageDraw.Draw(sheet)
    with counting("drawing the contact sheet", len(names)) as advance:
        for row, name in enumerate(names):
            top = _GAP + row * step
            draw.text((_GAP, top + _SIDE // 2), name, "black", font, anchor="lm")
            for column, image in enumerate(_chosen(samples, row, without)):
                sheet.paste(Image.fromarray(thumbnail(image)), (margin + column * step, top))
            advance(1)
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")


def _chosen(
    samples: Samples, label: int, without: Container[Path]
) -> list[Path | NDArray[np.uint8]]:
    images = (samples.images[i] for i in np.flatnonzero(samples.labels == label))
    good = [image for image in images if not isinstance(image, Path) or image not in without]
    spaced = np.linspace(0, len(good) - 1, min(len(good), _A_CLASS)).astype(int)
    return [good[i] for i in spaced]


def thumbnail(image: Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The centre of an image, 96 pixels high and wide; grey if only DALI can decode it."""
    from PIL import Image

    try:
        picture = read_picture(image) if isinstance(image, Path) else Image.fromarray(image)
    except UnreadableImage:
        return np.full((_SIDE, _SIDE, 3), 128, np.uint8)
    return CentreCrop((_SIDE, _SIDE), (_SIDE, _SIDE))(picture)


def _font() -> FreeTypeFont:
    """That of matplotlib, which has most alphabets."""
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / "DejaVuSans.ttf", _TEXT)
