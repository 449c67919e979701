"""A user's pictures: finding them, and reading one without DALI but like DALI."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edufast.data.folder import IMAGE_SUFFIXES, counted, left_out
from edufast.data.image_files import UnreadableImage, with_known_orientation
from edufast.utils.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# The largest value of grey that is not of 8 bits.
_LARGEST = {"I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I;16N": 65535, "I": 65535, "F": 1}
# Where Pillow looks for an orientation if there is none in EXIF data. DALI does not: training sees
# such a picture as it is stored.
_OTHER_ORIENTATIONS = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # those that DALI decodes, too


def find_pictures(given: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """The pictures among files and in folders, at any depth, each once.

    Files that are named themselves are taken whatever they are called. In folders, what is hidden
    or no picture is left out, as of the folder of a class in training.

    Returns:
        The pictures, those of a folder sorted; and how many entries were left out, by kind.

    Raises:
        UserError: one of ``given`` is no file and no folder, or there is no picture at all.
    """
    found: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in given:
        if path.is_dir():
            found += _in_folder(path, skipped)
        elif path.is_file():
            found.append(path)
        else:
            what = "is a pipe or device" if path.exists() else "does not exist"
            raise UserError(f"picture {str(path)!r} {what}; expected a file or a folder")
    if not found:
        left = f": {counted(skipped)} left out" if skipped else ""
        raise UserError(
            f"no pictures{left}; expected files, or folders that hold "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return list(dict.fromkeys(found)), skipped


def _in_folder(folder: Path, skipped: Counter[str]) -> list[Path]:
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = left_out(entry)
            if kind is None:
                files.append(folder / entry.name)
            elif kind != "folders":
                skipped[kind] += 1
            elif entry.is_symlink():  # which may lead back here
                skipped["links to folders"] += 1
            else:
                folders.append(folder / entry.name)
    return sorted(files) + [path for each in sorted(folders) for path in _in_folder(each, skipped)]


def read_picture(path: Path, draft: int | None = None) -> Image.Image:
    """The picture in a file: upright as its EXIF data says, in RGB of 8 bits, without alpha.

    Args:
        draft: pixels a side that suffice: a JPEG file is then decoded at a fraction of its size.

    Raises:
        UnreadableImage: the file cannot be read or decoded, or Pillow takes it for a decompression
            bomb (above 179 million pixels).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: many pixels, odd transparency; both are read
        return _upright(path, draft)


def _upright(path: Path, draft: int | None) -> Image.Image:
    from PIL import Image, ImageOps

    try:
        tiff = path.suffix.lower() in (".tif", ".tiff")
        file = BytesIO(with_known_orientation(path.read_bytes())) if tiff else path
        with Image.open(file, formats=_FORMATS) as image:
            for other in _OTHER_ORIENTATIONS:
                image.info.pop(other, None)
            if draft is not None:
                image.draft("RGB", (draft, draft))
            image.load()
            if image.mode == "I" and image.format != "PPM":
                raise ValueError("32 bits")  # which DALI does not decode
            upright = ImageOps.exif_transpose(image)
    # Decoders written in Python fail in any way on damaged files.
    except Exception as error:
        raise UnreadableImage(path) from error
    return eight_bits(upright)


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in RGB of 8 bits: greys of 16 bits, and floats from 0 to 1, are scaled."""
    if picture.mode in _LARGEST:  # convert would cut off at 255
        from PIL import Image

        pixels = np.clip(np.asarray(picture) / _LARGEST[picture.mode], 0, 1) * 255
        picture = Image.fromarray(pixels.round().astype(np.uint8))
    return picture.convert("RGB")
