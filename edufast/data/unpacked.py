"""Pictures inside other files, such as archives: copied once into files of their own, which are
read like all others."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from edufast.data.image_files import printable
from edufast.data.listed import Listed
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_folder, cache_folder
from edufast.utils.progress import counting

_INDEX = "pictures.index"  # a hash, and under it what it is of, in JSON
# First bytes of the formats that are read, whatever a file is called.
_BEGINNINGS = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    **{f"P{kind}".encode(): ".ppm" for kind in range(1, 7)},
}


class Packed(NamedTuple):
    """A picture in a shard.

    Attributes:
        picture: its content; or a file that the shard names.
        name: of its class.
        split: that the shard names for it.
    """

    picture: bytes | Path
    name: str
    split: str | None = None


def unpacked(shard: Path, pictures: Iterable[Packed]) -> list[Listed]:
    """The pictures of a shard as files.

    They are kept in ``unpacked`` of :func:`edufast.utils.files.cache_folder`, in a folder for the
    shard's path, size and time of change, and made once; their names are their numbers in it.

    Args:
        pictures: all, read only if they are not there yet.

    Raises:
        UserError: they cannot be written; or what ``pictures`` raises. Nothing is kept then.
    """
    about = shard.stat()
    identity = f"{shard.absolute()}:{about.st_size}:{about.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    folder = cache_folder() / "unpacked" / digest[:32] / shard.name
    try:
        found = _found(folder, pictures, f"unpacking {printable(shard.name)}")
    except OSError as error:
        raise UserError(
            f"{shard} cannot be unpacked into {folder.parent}: {error.strerror or error}; expected "
            "EDUFAST_CACHE to name a folder that can be written"
        ) from error
    return [
        Listed(f"{shard}, picture {number}", folder / file, name, split)
        for number, (file, name, split) in enumerate(found)
    ]


def _found(
    folder: Path, pictures: Iterable[Packed], what: str
) -> list[tuple[str, str, str | None]]:
    """What ``folder`` keeps, where it is made if it is not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes wait until all is there
        found = _kept(folder)
        if found is None:
            with (
                atomic_folder(folder) as temporary,
                counting(what, None) as advance,
            ):
                _unpack(temporary, pictures, advance)
            found = _kept(folder)
            assert found is not None
    return found


def _unpack(folder: Path, pictures: Iterable[Packed], advance: Callable[[int], None]) -> None:
    index: list[tuple[str, str, str | None]] = []
    for number, (picture, name, split) in enumerate(pictures):
        file = str(picture)
        if isinstance(picture, bytes):
            file = f"{number:07}{_suffix(picture)}"
            (folder / file).write_bytes(picture)
        index.append((file, name, split))
        advance(1)
    text = json.dumps(index).encode()
    (folder / _INDEX).write_bytes(_hash(text) + b"\n" + text)


def _kept(folder: Path) -> list[tuple[str, str, str | None]] | None:
    """What is there from before; None: nothing, or not all, or the index is damaged."""
    try:
        said, _, text = (folder / _INDEX).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if said != _hash(text):
        return None
    found = json.loads(text)
    own = (folder / file for file, _, _ in found if not os.path.isabs(file))
    return found if all(map(os.path.isfile, own)) else None


def _hash(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _suffix(content: bytes) -> str:
    kinds = (suffix for begin, suffix in _BEGINNINGS.items() if content.startswith(begin))
    return next(kinds, ".unknown")
