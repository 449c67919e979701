"""Small copies of large pictures, made once, because decoding a photograph of a phone takes longer
than learning from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edufast.data.image_files import UnreadableImage
from edufast.data.pictures import read_picture
from edufast.data.samples import Samples
from edufast.utils.files import atomic_write, cache_folder
from edufast.utils.progress import counting
from edufast.utils.threads import available_threads

_QUALITY = 95  # of JPEG
_MOST_PIXELS = 65500  # on a side of one


def reduced(samples: Samples, side: int) -> Samples:
    """``samples`` in which files with more than ``side`` pixels at their shorter side are replaced
    by copies that have as many. What cannot be read, or is too long for a copy, stays as it is, and
    so do arrays.

    Copies are kept in ``pictures`` of :func:`edufast.utils.files.cache_folder`, named after the
    file's path, size and time of change, so that they are made once.

    Raises:
        OSError: they cannot be written.
    """
    if isinstance(samples.images, np.ndarray):
        return samples
    with counting("reducing pictures", len(samples)) as advance:
        return Samples(tuple(_copies(samples.images, side, advance)), samples.labels)


def _copies(paths: tuple[Path, ...], side: int, advance: Callable[[int], None]) -> list[Path]:
    def copy(path: Path) -> Path:
        made = _copy(path, side)
        advance(1)
        return made

    pool = ThreadPoolExecutor(available_threads())
    try:
        return list(pool.map(copy, paths))
    finally:
        pool.shutdown(cancel_futures=True)


def _copy(path: Path, side: int) -> Path:
    """The copy of a file, which is made if it is not there; or the file."""
    from PIL import Image

    try:
        about = path.stat()
        with Image.open(path) as image:
            smaller, larger = sorted(image.size)
    except Exception:  # damaged headers fail in any way
        return path
    if smaller <= side or round(larger * side / smaller) > _MOST_PIXELS:
        return path
    identity = f"{path.absolute()}:{about.st_size}:{about.st_mtime_ns}:{side}"
    name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    copy = cache_folder() / "pictures" / name[:2] / f"{name[2:34]}.jpg"
    if copy.is_file():
        return copy
    try:
        picture = read_picture(path)
    except UnreadableImage:
        return path
    scale = side / min(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    small = picture.resize(size, Image.Resampling.BILINEAR)
    with atomic_write(copy) as temporary:
        small.save(temporary, "JPEG", quality=_QUALITY, subsampling=0)
    return copy
