"""Pictures in every format, mode and orientation that cameras and programs write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edufast.data import Loader, Samples


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture with details of about six pixels."""
    shape = height // 6 + 2, width // 6 + 2, 3
    rough = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def write_odd_pictures(folder: Path) -> list[Path]:
    """One of each kind, all of the same scene."""
    folder.mkdir(parents=True, exist_ok=True)
    image = smooth(61, 82)
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    grey = np.asarray(image.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + grey[::-1, ::-1])
    turned = {}
    for orientation in range(1, 9):
        turned[orientation] = Image.Exif()
        turned[orientation][0x0112] = orientation
    by_xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    texts = {name: PngInfo() for name in ("XML:com.adobe.xmp", "Raw profile type exif")}
    texts["XML:com.adobe.xmp"].add_itxt("XML:com.adobe.xmp", by_xmp.decode())
    raw = turned[6].tobytes()
    texts["Raw profile type exif"].add_text(
        "Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n"
    )
    pictures = {
        "a.bmp": (image, {}),
        "a.jpg": (image, {"quality": 90}),
        "a.png": (image, {}),
        "a.ppm": (image, {}),
        "a.tif": (image, {"compression": "tiff_lzw"}),
        "a.webp": (image, {"quality": 90}),
        "alpha.png": (alpha, {}),
        "alpha.webp": (alpha, {"lossless": True}),
        "bilevel.png": (image.convert("1"), {}),
        "cmyk.jpg": (image.convert("CMYK"), {"quality": 90}),
        "deep.png": (deep, {}),
        "deep.tif": (deep, {}),
        "deep.pgm": (Image.fromarray(np.asarray(deep).astype(np.int32)), {}),
        "float.tif": (Image.fromarray(grey.astype(np.float32) / 255), {}),
        "grey.jpg": (image.convert("L"), {"quality": 90}),
        "grey-alpha.png": (alpha.convert("LA"), {}),
        "palette.bmp": (image.convert("P"), {}),
        "palette.png": (image.convert("P"), {"transparency": 3}),
        "progressive.jpg": (image, {"quality": 90, "progressive": True}),
        "really-a-png.jpg": (image, {"format": "PNG"}),
        "turned.png": (image, {"exif": turned[6].tobytes()}),
        "turned.tif": (image, {"tiffinfo": {274: 6}}),
        "turned.webp": (image, {"exif": turned[6].tobytes()}),
        # Orientations outside of EXIF data, which Pillow reads, and DALI does not.
        "xmp.jpg": (image, {"quality": 90, "xmp": by_xmp}),
        "xmp.webp": (image, {"quality": 90, "xmp": by_xmp}),
        "xmp.tif": (image, {"tiffinfo": {700: by_xmp}}),
        "xmp.png": (image, {"pnginfo": texts["XML:com.adobe.xmp"]}),
        "raw.png": (image, {"pnginfo": texts["Raw profile type exif"]}),
        **{f"turned{o}.jpg": (image, {"exif": exif.tobytes()}) for o, exif in turned.items()},
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return [folder / name for name in pictures]


def seen_in_validation(path: Path, size: int) -> np.ndarray:
    """(size, size, 3) float32, from 0 to 255: what DALI makes of a file."""
    loader = Loader(
        Samples((path,), np.zeros(1, np.int64)),
        batch_size=1,
        image_size=size,
        mean=(0, 0, 0),
        std=(1 / 255, 1 / 255, 1 / 255),
        num_threads=1,
    )
    return next(loader.epoch(0)).images[0].permute(1, 2, 0).numpy()
