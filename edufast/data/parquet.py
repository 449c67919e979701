"""Parquet files: tables that hold pictures, or name them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edufast.data.columns import find_columns, pictures_of
from edufast.data.listed import listed_splits
from edufast.data.samples import Splits
from edufast.data.shards import shards
from edufast.data.unpacked import Packed, unpacked
from edufast.utils.errors import UserError, one_line
from edufast.utils.extras import needed_for

_SUFFIX = ".parquet"


def parquet(path: Path, seed: int = 0) -> Splits:
    """The splits of the files at ``path``, such as Hugging Face's datasets writes, with columns as
    :func:`edufast.data.columns.find_columns` finds them. A column ``split`` is as that of a CSV
    file, see :func:`edufast.data.manifest.manifest`.

    Args:
        path: a file or a folder of them, see :func:`edufast.data.shards.shards`. Without named
            splits about a fifth of each class becomes the validation split.
        seed: of that choice.

    Raises:
        UserError: a file is damaged, or a row lacks something; or as
            :func:`edufast.data.listed.listed_splits`.
        MissingPackageError: pyarrow is not installed.
    """
    pictures = (
        picture._replace(split=split or picture.split)
        for shard, split in shards(path, _SUFFIX)
        for picture in unpacked(shard, _pictures(shard))
    )
    return listed_splits(str(path), pictures, seed)


def _pictures(shard: Path) -> Iterator[Packed]:
    with needed_for("reading Parquet files", "arrow"):
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard) as file:
            columns = find_columns(str(shard), file.schema_arrow)
            batches = file.iter_batches(columns=columns.all)
            yield from pictures_of(shard, batches, columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{shard}: cannot be read as Parquet: {one_line(error)}") from error
