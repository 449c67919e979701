"""What formats share whose programs take one image: their memory is planned when they are written,
for the largest batch that they may ever see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edufast.edge.onnx import cause, quiet
from edufast.edge.original import Original
from edufast.edge.parity import ExportError
from edufast.edge.seal import is_damaged


def example(original: Original) -> tuple[torch.Tensor]:
    """What a program is called with."""
    return (torch.from_numpy(original.images[:1].copy()),)


@contextmanager
def exporting(runtime: str) -> Iterator[None]:
    """Around what may fail: any error becomes an `ExportError`."""
    try:
        with quiet():
            yield
    except Exception as error:  # errors of torch's exporter and of others share no base class
        raise ExportError(f"{runtime} cannot take this model: {cause(error)}") from error


def undamaged(path: Path) -> bytes:
    """The content of an exported file, which its runtime would take as it is.

    Raises:
        ExportError: it does not end with its hash.
    """
    content = path.read_bytes()
    if is_damaged(content):
        raise ExportError(
            f"{path} is damaged, or edufast did not write it: its content does not match the hash "
            "at its end"
        )
    return content
