"""Pictures and classes in the columns of Arrow tables: as Hugging Face's datasets lays them out, or
as a list has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edufast.data.unpacked import Packed
from edufast.utils.errors import UserError
from edufast.utils.json_text import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

_PICTURES = ("picture", "image", "img", "path", "file_name")
_CLASSES = ("class", "label")
_BATCH = 64  # rows, of pictures of any size, that are in memory together


class Columns(NamedTuple):
    """Where pictures and classes are.

    Attributes:
        picture: column of structs of ``bytes`` and ``path``, of bytes, or of paths.
        label: column of names, or of numbers.
        names: of the classes, by number; None: those in the column.
        split: column of names of splits; None: there is none.
    """

    picture: str
    label: str
    names: tuple[str, ...] | None
    split: str | None

    @property
    def all(self) -> list[str]:
        """Their names."""
        return [each for each in (self.picture, self.label, self.split) if each is not None]


def find_columns(where: str, schema: pa.Schema) -> Columns:
    """The columns of a table with ``schema``.

    Pictures are in the column that holds contents of files, or else in one called picture, image,
    img, path or file_name. Classes are in the one that the schema's metadata names as such, or in
    one called class or label. Of several of a kind the one with such a name is taken.

    Raises:
        UserError: there is none, or there are several.
    """
    features = _features(schema)
    contents = [field.name for field in schema if _holds_files(field.type)]
    paths = [name for name in schema.names if name in _PICTURES]
    known = [name for name in schema.names if _is_class(features.get(name))]
    named = [name for name in schema.names if name in _CLASSES]
    label = _one(where, "classes", known or named, _CLASSES, schema)
    names = tuple(map(str, features[label]["names"])) if label in known else None
    if names is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where}: {label} has two classes called {twice!r}; expected one")
    return Columns(
        _one(where, "pictures", contents or paths, _PICTURES, schema),
        label,
        names,
        "split" if "split" in schema.names else None,
    )


def pictures_of(
    shard: Path, batches: Iterable[pa.RecordBatch], columns: Columns
) -> Iterator[Packed]:
    """The pictures in ``batches``, which have these columns; paths are those from the folder of
    ``shard``, where they are.

    Raises:
        UserError: a row has no picture or no class, a number that names no class, or text that is
            not UTF-8.
    """
    row = 0
    for large in batches:
        for start in range(0, large.num_rows, _BATCH):
            part = large.select(columns.all).slice(start, _BATCH)
            try:
                rows = part.to_pylist()
            except UnicodeDecodeError as error:
                raise UserError(f"{shard}, from row {row}: text is not UTF-8: {error}") from error
            for values in rows:
                yield _packed(shard, row, values, columns)
                row += 1


def _packed(shard: Path, row: int, values: dict[str, Any], columns: Columns) -> Packed:
    where, label = f"{shard}, row {row}", values[columns.label]
    picture = values[columns.picture]
    if isinstance(picture, dict):
        content = picture.get("bytes")
        picture = picture.get("path") if content is None else content
    if isinstance(picture, str):
        picture = (shard.parent / picture).absolute()
    if picture is None:
        raise UserError(f"{where}: has no picture")
    names = columns.names
    if names is not None and isinstance(label, int):
        if not 0 <= label < len(names):
            raise UserError(f"{where}: {columns.label} is {label}; expected 0 to {len(names) - 1}")
        label = names[label]
    if not isinstance(label, str | int):
        raise UserError(
            f"{where}: {columns.label} is {label!r}; expected a class, as text or a whole number"
        )
    split = None if columns.split is None else str(values[columns.split])
    return Packed(picture, str(label), split)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's datasets wrote about the columns; {}: nothing that can be read."""
    try:
        about = parse_json((schema.metadata or {})[b"huggingface"])
        features = about["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _is_class(feature: Any) -> bool:
    is_label = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    return is_label and isinstance(feature.get("names"), list)


def _holds_files(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_files(kind.field(at).type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _one(where: str, what: str, found: list[str], usual: tuple[str, ...], schema: pa.Schema) -> str:
    if len(found) > 1:
        found = [name for name in usual if name in found][:1]
    if not found:
        raise UserError(
            f"{where}: has the columns {', '.join(schema.names)}; expected one of {what}, called "
            f"{' or '.join(usual)} if it is not the only one"
        )
    if schema.names.count(found[0]) > 1:
        raise UserError(f"{where}: has several columns called {found[0]}; expected one")
    return found[0]
