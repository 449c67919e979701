"""Image files: how DALI gets at their bytes, and which of them it cannot read or decode."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edufast.data.samples import Samples, Splits
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.progress import counting
from edufast.utils.stderr import without_messages
from edufast.utils.threads import available_threads

if TYPE_CHECKING:
    import torch
    from nvidia.dali import Pipeline
    from nvidia.dali.data_node import DataNode

_AT_ONCE = 8  # files that are decoded together, which may be of many megapixels each
_ORIENTATION = 274  # a tag of TIFF
_NAMED, _NAMED_SKIPPED = 50, 5  # most files in an error, and in a warning


class UnreadableImage(UserError):
    """Image files cannot be read or decoded.

    Args:
        advice: what to do about it.
    """

    def __init__(
        self, *paths: Path, advice: str = "; on_error: skip leaves such files out"
    ) -> None:
        what = "image file" if len(paths) == 1 else f"{len(paths)} image files:"
        super().__init__(f"{what} {_named(paths, _NAMED)}: cannot be read or decoded{advice}")


class Encoded:
    """The input of a pipeline for image files, called with the path of one.

    DALI reads the files itself. Where there are files among them that decoders stumble over, they
    are read here: see :func:`with_even_chunks` and :func:`with_known_orientation`.

    Args:
        paths: all files that the pipeline will read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._contents = any(path.suffix.lower() in (".webp", ".tif", ".tiff") for path in paths)

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        if not self._contents:
            return np.frombuffer(os.fsencode(path), dtype=np.uint8)
        try:
            content = path.read_bytes()
        except OSError:
            content = b""  # which cannot be decoded
        return np.frombuffer(with_known_orientation(with_even_chunks(content)), dtype=np.uint8)

    def read(self, source: DataNode) -> DataNode:
        """The files' bytes."""
        from nvidia.dali import fn

        # If a memory-mapped file is truncated, the process is killed (SIGBUS).
        return source if self._contents else fn.io.file.read(source, dont_use_mmap=True)


def with_even_chunks(content: bytes) -> bytes:
    """A WebP file in which chunks of odd size include the byte after them, which decoders ignore;
    other files as they are. DALI 2.4 does not count that byte, does not find the EXIF data behind
    it, and refuses the file."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return content
    even, at = bytearray(content), 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        end = at + 8 + size
        if size % 2 and end < len(content):
            even[at + 4 : at + 8] = (size + 1).to_bytes(4, "little")
        at = end + size % 2
    return bytes(even)


def with_known_orientation(content: bytes) -> bytes:
    """A TIFF file that is upright where it names none of the eight orientations, which is how it is
    decoded anyway; other files as they are. libtiff prints a line about each."""
    order: Literal["little", "big"] = "big" if content[:4] == b"MM\0*" else "little"
    if content[:4] not in (b"MM\0*", b"II*\0"):
        return content

    def number(at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], order)

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        at = directory + 2 + 12 * entry
        if number(at, 2) == _ORIENTATION:
            known = 1 <= number(at + 8, 2) <= 8
            upright = (1).to_bytes(2, order)
            return content if known else content[: at + 8] + upright + content[at + 10 :]
    return content


def unreadable(
    paths: Sequence[Path],
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda more: None,
) -> list[Path]:
    """Those of ``paths`` that DALI cannot read or decode on ``device``.

    Args:
        advance: called with a number of files that have been checked.
    """
    import torch

    decoder = _Decoder(Encoded(paths), torch.device(device))
    found: list[Path] = []
    for start in range(0, len(paths), _AT_ONCE):
        part = paths[start : start + _AT_ONCE]
        if not decoder.decodes(part):
            found += [path for path in part if not decoder.decodes([path])]
        advance(len(part))
    return found


@contextmanager
def naming_unreadable(*splits: Samples) -> Iterator[None]:
    """If a file cannot be read or decoded inside, the error names all such files of the splits."""
    try:
        yield
    except UnreadableImage as error:
        found = unreadable_of(*splits)
        if len(found) < 2:
            raise
        raise UnreadableImage(*found) from error


def without_unreadable(splits: Splits, source: str) -> Splits:
    """``splits`` without the files that cannot be read or decoded, which a warning counts.

    Every file is decoded once. The others stay in their split and order.

    Args:
        source: of the data, for messages.

    Raises:
        UserError: no training image of a class, or no validation image at all, can be decoded.
    """
    bad = set(unreadable_of(splits.train, splits.val))
    if not bad:
        return splits
    train, val = good = without_files(splits, bad, source, "can be read and decoded")
    warnings.warn(
        f"data source {source!r}: {len(train) + len(val)} image files are used, {len(bad)} left "
        f"out, which cannot be read or decoded ({len(splits.train) - len(train)} for training, "
        f"{len(splits.val) - len(val)} for validation): "
        f"{_named(sorted(bad), _NAMED_SKIPPED)}",
        stacklevel=3,
    )
    return Splits(splits.classes, *good)


def without_files(
    splits: Splits, bad: Container[Path], source: str, which: str
) -> tuple[Samples, Samples]:
    """The training and the validation split without the files ``bad``, the others in their order.

    Args:
        which: those are that stay, in messages.

    Raises:
        UserError: no training image of a class stays, or no validation image at all.
    """
    train, val = (_without(samples, bad) for samples in (splits.train, splits.val))
    counts = np.bincount(train.labels, minlength=len(splits.classes))
    if not counts.all():
        raise UserError(
            f"data source {source!r}: no training image of class "
            f"{splits.classes[counts.argmin()]!r} {which}"
        )
    if not len(val):
        raise UserError(f"data source {source!r}: no validation image {which}")
    return train, val


def printable(path: object) -> str:
    """A name on one line, as Python writes it if it cannot be printed as it is."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def _named(paths: Sequence[Path], most: int) -> str:
    """Their names on one line."""
    return ", ".join(map(printable, paths[:most])) + (
        f" and {len(paths) - most} more" if len(paths) > most else ""
    )


def unreadable_of(*splits: Samples) -> list[Path]:
    """Those of several splits, each once, with a progress bar."""
    paths = list(dict.fromkeys(path for samples in splits for path in files_of(samples)))
    with counting("checking image files", len(paths)) as advance:
        return unreadable(paths, advance=advance)


def _without(samples: Samples, bad: Container[Path]) -> Samples:
    good = [position for position, path in enumerate(files_of(samples)) if path not in bad]
    return samples.subset(np.array(good, dtype=np.int64))


def files_of(samples: Samples) -> tuple[Path, ...]:
    """The image files of a split; none if its images are an array."""
    return () if isinstance(samples.images, np.ndarray) else samples.images


class _Decoder:
    """Tells whether files can be decoded."""

    def __init__(self, encoded: Encoded, device: torch.device) -> None:
        self._encoded, self._device = encoded, device
        self._part: list[Path] = []
        self._pipeline: Pipeline | None = None

    def decodes(self, part: Sequence[Path]) -> bool:
        """Whether all of ``part``, at most 8 files, can be decoded."""
        self._part[:] = part
        self._pipeline = self._pipeline or self._build()
        try:
            with without_messages():  # about damaged files, which are named anyway
                self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # a failed pipeline is dead
            return False
        return True

    def _build(self) -> Pipeline:
        with needed_for("reading image files", "train"):
            from nvidia.dali import Pipeline, fn

        pipeline = Pipeline(
            batch_size=_AT_ONCE,
            num_threads=min(_AT_ONCE, available_threads()),
            device_id=self._device.index,
            prefetch_queue_depth=1,
        )
        with pipeline:
            # Not over self: its threads would stay until the garbage collector runs.
            part, content = self._part, self._encoded
            source = fn.external_source(source=lambda: [content(path) for path in part], batch=True)
            encoded = content.read(source)
            decoder = "mixed" if self._device.type == "cuda" else "cpu"
            shapes = fn.peek_image_shape(encoded)  # random crops depend on them
            pipeline.set_outputs(fn.decoders.image(encoded, device=decoder), shapes)
        pipeline.build()
        return pipeline
