"""Tar shards of WebDataset: ``<key>.jpg`` and ``<key>.cls``, or ``<key>.json``, for each picture.
They may be compressed by gzip.

https://github.com/webdataset/webdataset describes the layout.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from edufast.data.folder import IMAGE_SUFFIXES
from edufast.data.listed import listed_splits
from edufast.data.samples import Splits
from edufast.data.shards import shards
from edufast.data.unpacked import Packed, unpacked
from edufast.utils.errors import UserError, one_line
from edufast.utils.json_text import parse_json

SUFFIXES = ".tar", ".tar.gz", ".tgz"
_CHUNK = 1 << 20
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key, and what comes after the first dot
_KEYS = ("label", "class", "cls")  # of the class, in a .json file


def webdataset(path: Path, seed: int = 0) -> Splits:
    """The splits of the shards at ``path``.

    Pictures are files of the formats that folders of pictures may hold. Their classes are in
    ``.cls`` files, as text, or in ``.json`` files under ``label``, ``class`` or ``cls``, as text or
    as numbers, which are the names then.

    Args:
        path: a shard or their folder, see :func:`edufast.data.shards.shards`. Without named splits
            about a fifth of each class becomes the validation split.
        seed: of that choice.

    Raises:
        UserError: a shard is damaged, a sample lacks its picture or class; or as
            :func:`edufast.data.listed.listed_splits`.
    """
    pictures = (
        picture._replace(split=split)
        for shard, split in shards(path, *SUFFIXES)
        for picture in unpacked(shard, _pictures(shard))
    )
    return listed_splits(str(path), pictures, seed)


def _pictures(shard: Path) -> Iterator[Packed]:
    for key, files in groupby(_files(shard), key=lambda file: file[0]):
        content = {suffix: found for _, suffix, found in files}
        pictures = [found for suffix, found in content.items() if f".{suffix}" in IMAGE_SUFFIXES]
        if len(pictures) != 1:
            raise UserError(f"{shard}: {key!r} has {len(pictures)} pictures; expected one")
        yield Packed(pictures[0], _class(f"{shard}: {key!r}", content))


def _files(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix in lower case, and content of each file of a shard."""
    try:
        with tarfile.open(shard, "r:gz" if shard.name.lower().endswith("gz") else "r:") as archive:
            for member in archive:
                parts = _MEMBER.fullmatch(member.name)
                if member.isfile() and parts:
                    file = archive.extractfile(member)
                    assert file is not None
                    yield parts[1], parts[2].lower(), file.read()
            assert archive.fileobj is not None
            archive.fileobj.seek(archive.offset)  # tarfile takes one that was cut off for a whole
            whole = archive.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
            while archive.fileobj.read(_CHUNK):  # to the checksum, of one that is compressed
                pass
    except (tarfile.TarError, OSError, ValueError, EOFError, zlib.error) as error:
        raise UserError(f"{shard}: cannot be read as a tar file: {one_line(error)}") from error
    if not whole:
        raise UserError(f"{shard}: is damaged or cut off; expected a whole tar file")


def _class(where: str, content: dict[str, bytes]) -> str:
    try:
        if "cls" in content:
            return content["cls"].decode().strip()
        about = parse_json(content["json"]) if "json" in content else None
    except ValueError as error:
        raise UserError(f"{where}: its class cannot be read: {one_line(error)}") from error
    about = about if isinstance(about, dict) else {}
    name = next((about[key] for key in _KEYS if key in about), None)
    if not isinstance(name, str | int):
        raise UserError(
            f"{where}: has no class; expected a .cls file, or a .json file with {', '.join(_KEYS)}"
        )
    return str(name)
