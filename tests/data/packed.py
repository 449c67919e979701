"""Pictures in tables and archives, as Hugging Face's datasets and WebDataset lay them out."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("cat", "dog")
LABELS = {"_type": "ClassLabel", "names": list(NAMES)}


def content(number: int, kind: str = "PNG") -> bytes:
    """A picture of its own as a file has it."""
    noise = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def embedded(count: int, first: int = 0) -> dict[str, list[Any]]:
    """Columns of so many pictures, of two classes in turn."""
    numbers = range(first, first + count)
    return {
        "image": [{"bytes": content(number), "path": None} for number in numbers],
        "label": [number % 2 for number in numbers],
    }


def table(columns: dict[str, list[Any]], label: str = "label", names: Sequence[str] = NAMES) -> Any:
    """An Arrow table that says of what its features are, as Hugging Face's datasets does."""
    import pyarrow as pa

    features = {"image": {"_type": "Image"}, label: {**LABELS, "names": list(names)}}
    about = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": about})


def write_parquet(path: Path, made: Any) -> Path:
    """A table, or the columns of one that nothing is said about."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(made if isinstance(made, pa.Table) else pa.table(made), path, row_group_size=7)
    return path


def write_saved(folder: Path, *tables: Any) -> Path:
    """What save_to_disk of Hugging Face's datasets writes: an Arrow file for each table."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{k:05}-of-{len(tables):05}.arrow" for k in range(len(tables))]
    for name, each in zip(names, tables, strict=True):
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, each.schema) as to,
        ):
            to.write_table(each, max_chunksize=5)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w:") as archive:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def samples(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Members of a shard of WebDataset, of two classes in turn."""
    found = []
    for number in range(first, first + count):
        found.append((f"{number:06}.cls", NAMES[number % 2].encode()))
        found.append((f"{number:06}.png", content(number)))
    return found


def contents(split: Any) -> set[tuple[bytes, int]]:
    """What files of a split hold, and their labels."""
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    return {(path.read_bytes(), label) for path, label in pairs}


def expected(count: int, first: int = 0) -> set[tuple[bytes, int]]:
    """The same of :func:`embedded` and :func:`samples`."""
    return {(content(number), number % 2) for number in range(first, first + count)}
