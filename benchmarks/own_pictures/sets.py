"""Small sets of pictures as class folders of PNG files, drawn from larger ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edufast.data.sources import read

TEST = 100  # most test images of a class
WRITING = ("digits", "glyphs", "letters")
LETTERS = "ABDEFGHKLMNPRSTUXY24"  # of the set that is drawn here, in pictures of so many pixels
SIDE = 96
Pictures = tuple[NDArray[np.uint8], NDArray[np.int64], Sequence[str]]


def mirrors(name: str) -> bool:
    """Whether a mirrored picture of the set ``name`` still shows the same."""
    return name.partition("-")[0] not in WRITING


def class_sizes(size: str) -> list[int]:
    """Pictures of each class of a set of ``size``, such as 12x40 or 12x10to80."""
    number, _, counts = size.partition("x")
    least, _, most = counts.partition("to")
    sizes = np.geomspace(int(most or least), int(least), int(number))
    return [round(size) for size in sizes]


def write_set(name: str, photographs: Path, folder: Path, seed: int) -> None:
    """Write ``folder/pictures/<class>`` and ``folder/test/<class>``, which have no image in common.

    Args:
        name: such as ``caltech101-12x40``: 12 classes of 40 pictures each, drawn by ``seed``; or
            ``cifar100-12x10to80``, where the largest class has 80, the smallest 10, and each the
            same factor more than the next. The digits and glyphs are those of :mod:`edufast.data`;
            letters are drawn here, as no photographs of their size are at hand.
        photographs: a folder with caltech101_32, food101_32 and cifar-100-binary.
    """
    if folder.exists():
        return
    source, _, size = name.partition("-")
    counts = class_sizes(size)
    images, labels, names = _read(source, photographs)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(seed)
    large = np.flatnonzero(np.bincount(labels, minlength=len(names)) >= max(counts) + 10)
    for c, count in zip(rng.choice(large, len(counts), replace=False), counts, strict=True):
        members = rng.permutation(np.flatnonzero(labels == c))[: count + TEST]
        for part, chosen in (("pictures", members[:count]), ("test", members[count:])):
            of_class = unfinished / part / str(names[c])
            of_class.mkdir(parents=True)
            for i in chosen:
                Image.fromarray(images[i]).save(of_class / f"{i}.png")
    unfinished.rename(folder)


def _read(source: str, photographs: Path) -> Pictures:
    """All images (N, H, W, 3), their labels, and names of the classes that folders may have."""
    if source == "letters":
        return _draw_letters(_read_cifar(photographs / "cifar-100-binary")[0])
    if source in WRITING:
        classes, *splits = read(source, seed=0)
        images, labels = (
            np.concatenate([getattr(split, key) for split in splits])
            for key in ("images", "labels")
        )
        return images, labels, [f"U+{ord(name):04X}" for name in classes]
    if source == "cifar100":
        return _read_cifar(photographs / "cifar-100-binary")
    files = [np.load(photographs / f"{source}_32" / f"{split}.npz") for split in ("train", "test")]
    images, labels = (np.concatenate([file[key] for file in files]) for key in ("images", "labels"))
    return images, labels, files[0]["class_names"].tolist()


def _read_cifar(folder: Path) -> Pictures:
    splits = [np.fromfile(folder / f"{split}.bin", np.uint8) for split in ("train", "test")]
    rows = np.concatenate([split.reshape(-1, 3074) for split in splits])
    images = rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    names = (folder / "fine_label_names.txt").read_text().split()
    return images, rows[:, 1].astype(np.int64), names


def _draw_letters(photographs: NDArray[np.uint8], count: int = 2 * TEST) -> Pictures:
    """``count`` pictures of each letter: anywhere, turned, of 30 to 60 pixels and any colour, over
    nine photographs of 32 x 32 pixels."""
    import matplotlib

    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVuSans*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]
    rng = np.random.default_rng(0)
    drawn = []
    for letter in LETTERS:
        for _ in range(count):
            tiles = photographs[rng.choice(len(photographs), 9)].reshape(3, 3, 32, 32, 3)
            picture = Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3))
            font = ImageFont.truetype(fonts[rng.integers(len(fonts))], rng.integers(30, 61))
            mask = Image.new("L", (SIDE, SIDE))
            centre = tuple(rng.uniform(0.3, 0.7, 2) * SIDE)
            ImageDraw.Draw(mask).text(centre, letter, fill=255, font=font, anchor="mm")
            mask = mask.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, center=centre)
            picture.paste(tuple(map(int, rng.integers(0, 256, 3))), mask=mask)
            drawn.append(np.asarray(picture))
    return np.stack(drawn), np.arange(len(LETTERS)).repeat(count), LETTERS
