"""A 60-class data set rendered from the fonts of matplotlib, without any download.

Light glyphs on a darker, coloured, low-frequency texture, with a random affine map and noise. A
linear model fails on it and a small ResNet learns it within 24,000 samples, which leaves room for
distillation. Each image has its own random generator, keyed by (seed, split, class, index), so it
can be rendered alone.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edufast.data.samples import Samples, Splits
from edufast.utils.files import atomic_write, cache_folder
from edufast.utils.progress import counting

if TYPE_CHECKING:
    from PIL import Image

# Without characters that the rotation, shear and scale below make alike (0/O, 1/I/l, c/C, s/S).
CLASSES = tuple("ABCDEFGHJKLMNPQRSTUVWXYZabdefghmnrt23456789&@#%?+=<>*/$~ΔΣΨΩ")
SIZE = 32
TRAIN_PER_CLASS = 100
VAL_PER_CLASS = 50

# Increase it when the code below renders other pixels.
VERSION = 1


@dataclass(frozen=True)
class Style:
    """How an image differs from a plain glyph. Lengths are in pixels, colours from 0 to 255."""

    font_size: float = 24.0  # at scale 1
    rotation: float = 18.0  # degrees, in either direction
    shear: float = 0.2  # in either direction
    scale: tuple[float, float] = (0.85, 1.25)
    shift: float = 3.0  # in either direction
    background: float = 120.0  # brightest texture
    contrast: float = 60.0  # of the glyph over the brightest texture, per channel, at least
    noise: float = 12.0  # standard deviation


STYLE = Style()
_OVERSAMPLING = 2  # glyphs are rendered at this multiple of their size, then scaled down


def glyphs(seed: int = 0) -> Splits:
    """Images (N, 32, 32, 3) uint8, different for each seed.

    Labels ascend, with 100 training and 50 validation images per class. Rendered once, in a few
    seconds, and cached in ``$EDUFAST_CACHE`` (``~/.cache/edufast`` if unset); a damaged cache is
    rendered again, and one that cannot be written is only a warning.
    """
    path = _cache_path(seed)
    images = _read_cache(path)
    if images is None:
        images = _render_all(seed)
        try:
            _write_cache(path, *images)
        except OSError as error:
            warnings.warn(f"the glyphs could not be cached in {path}: {error}", stacklevel=2)
    classes = np.arange(len(CLASSES), dtype=np.int64)
    train = Samples(images[0], classes.repeat(TRAIN_PER_CLASS))
    val = Samples(images[1], classes.repeat(VAL_PER_CLASS))
    return Splits(CLASSES, train, val)


def render(label: int, index: int, *, split: int, seed: int = 0) -> NDArray[np.uint8]:
    """Image ``index`` of class ``label``: (32, 32, 3) uint8. ``split`` is 0 (train) or 1 (val)."""
    from PIL import Image

    rng = np.random.Generator(np.random.Philox(key=[seed, split], counter=[0, 0, label, index]))
    mask = _mask(CLASSES[label], _fonts()[rng.integers(len(_fonts()))])

    # PIL expects the map from the image to the mask: the inverse of scale * rotation * shear.
    angle = np.deg2rad(rng.uniform(-1, 1) * STYLE.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    shear = rng.uniform(-1, 1) * STYLE.shear
    forward = rng.uniform(*STYLE.scale) / _OVERSAMPLING
    forward = forward * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]])
    inverse = np.linalg.inv(forward)
    centre = SIZE / 2 + rng.uniform(-1, 1, size=2) * STYLE.shift
    origin = np.array(mask.size) / 2 - inverse @ centre
    coefficients = (*inverse[0], origin[0], *inverse[1], origin[1])
    ink = mask.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )

    texture = rng.uniform(0, STYLE.background, size=(4, 4, 3)).astype(np.uint8)
    background = np.asarray(
        Image.fromarray(texture).resize((SIZE, SIZE), Image.Resampling.BILINEAR), dtype=np.float64
    )
    faintest = background.max(axis=(0, 1)) + STYLE.contrast
    colour = rng.uniform(faintest, 255.0)
    opacity = np.asarray(ink, dtype=np.float64)[..., None] / 255
    image = background + opacity * (colour - background)
    image += rng.normal(0.0, STYLE.noise, size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@cache
def _fonts() -> tuple[Path, ...]:
    """The bundled fonts that have a glyph for every class.

    The character map is not enough: the TeX fonts have other glyphs at some code points, and
    LastResort has a box at each. So the glyphs' names are checked as well.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

    def names(path: Path) -> list[str | None]:
        font = FT2Font(str(path))
        glyph = font.get_charmap()
        found = (glyph.get(ord(c)) for c in CLASSES)
        return [None if index is None else font.get_glyph_name(index) for index in found]

    adobe = names(folder / "DejaVuSans.ttf")
    allowed = [{name, f"uni{ord(c):04X}"} for c, name in zip(CLASSES, adobe, strict=True)]
    return tuple(
        path
        for path in sorted(folder.glob("*.ttf"))
        if all(name in good for name, good in zip(names(path), allowed, strict=True))
    )


@cache
def _mask(character: str, font: Path) -> Image.Image:
    """The character in white on black, centred, with a margin for the affine map."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), size=STYLE.font_size * _OVERSAMPLING)
    left, top, right, bottom = face.getbbox(character)
    side = 2 * SIZE * _OVERSAMPLING
    mask = Image.new("L", (side, side))
    corner = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(mask).text(corner, character, fill=255, font=face)
    return mask


def _render_all(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    def split(number: int, per_class: int) -> NDArray[np.uint8]:
        images = np.empty((len(CLASSES) * per_class, SIZE, SIZE, 3), dtype=np.uint8)
        for row in range(len(images)):
            images[row] = render(*divmod(row, per_class), split=number, seed=seed)
            advance(1)
        return images

    with counting("rendering glyphs", len(CLASSES) * (TRAIN_PER_CLASS + VAL_PER_CLASS)) as advance:
        return split(0, TRAIN_PER_CLASS), split(1, VAL_PER_CLASS)


def _cache_path(seed: int) -> Path:
    """The cache file of these images, named after everything they depend on."""
    import matplotlib
    import PIL
    from PIL import features

    libraries = np.__version__, matplotlib.__version__, PIL.__version__
    counts = SIZE, TRAIN_PER_CLASS, VAL_PER_CLASS
    key = VERSION, seed, CLASSES, counts, STYLE, libraries, features.version("freetype2")
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    return cache_folder() / f"glyphs-{name}.npz"


def _read_cache(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The cached images; None if there are none, or if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            train, val, digest = file["train"], file["val"], file["digest"]
    except Exception:  # a damaged archive can fail in any way
        return None
    return (train, val) if digest.tobytes() == _digest(train, val) else None


def _write_cache(path: Path, train: NDArray[np.uint8], val: NDArray[np.uint8]) -> None:
    digest = np.frombuffer(_digest(train, val), dtype=np.uint8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, train=train, val=val, digest=digest)


def _digest(*arrays: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
    return digest.digest()
