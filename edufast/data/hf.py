"""Data sets that ``save_to_disk`` of Hugging Face's datasets wrote.

<folder>/state.json, dataset_info.json, and the Arrow files that the first names
<folder>/dataset_dict.json and such a folder for each split
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edufast.data.columns import find_columns, pictures_of
from edufast.data.listed import Listed, listed_splits, used_splits
from edufast.data.samples import Splits
from edufast.data.unpacked import Packed, unpacked
from edufast.utils.errors import UserError, one_line
from edufast.utils.extras import needed_for
from edufast.utils.json_text import parse_json

_STATE, _ABOUT, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether ``folder`` is such a data set."""
    one = (folder / _STATE).is_file() and (folder / _ABOUT).is_file()
    return one or (folder / _SPLITS).is_file()


def hf(path: Path, seed: int = 0) -> Splits:
    """The splits of the data set in the folder ``path``, with columns as
    :func:`edufast.data.columns.find_columns` finds them.

    Args:
        path: the folder. One without splits, or with train only, is split: about a fifth of each
            class becomes the validation split.
        seed: of that choice.

    Raises:
        UserError: a file is missing or damaged, or a row lacks something; or as
            :func:`edufast.data.listed.listed_splits`.
        MissingPackageError: pyarrow is not installed.
    """
    if (path / _SPLITS).is_file():
        names = _named(path / _SPLITS, lambda content: content["splits"])
        parts = {path / name: split for name, split in used_splits(str(path), names).items()}
    else:
        parts = {path: None}
    pictures = (
        picture._replace(split=split)
        for folder, split in parts.items()
        for picture in _saved(folder)
    )
    return listed_splits(str(path), pictures, seed)


def _saved(folder: Path) -> Iterator[Listed]:
    """The pictures of one split."""
    state = folder / _STATE
    for name in _named(
        state, lambda content: [file["filename"] for file in content["_data_files"]]
    ):
        shard = folder / name
        if not shard.is_file():
            raise UserError(f"{shard}: missing; {state} names it")
        yield from unpacked(shard, _pictures(shard))


def _named(path: Path, find: Callable[[Any], list[Any]]) -> list[str]:
    """The names that ``find`` finds in the content of a JSON file."""
    try:
        names = find(parse_json(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: missing; expected a folder written by save_to_disk") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged; expected a file written by save_to_disk") from error
    return [str(name) for name in names]


def _pictures(shard: Path) -> Iterator[Packed]:
    with needed_for("reading Arrow files", "arrow"):
        import pyarrow as pa

    try:
        with pa.memory_map(str(shard)) as file, pa.ipc.open_stream(file) as batches:
            columns = find_columns(str(shard), batches.schema)
            yield from pictures_of(shard, batches, columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{shard}: cannot be read as an Arrow file: {one_line(error)}") from error
