"""The command that averages files of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edufast.cli.common import fail, say
from edufast.cli.options import out_path, path_of


def merge(
    files: Annotated[
        list[Path], typer.Argument(parser=path_of("files"), help="Two or more .safetensors files.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", parser=out_path, help="File to write.")],
    weights: Annotated[
        str | None, typer.Option(help="Their weights, comma-separated (default: equal).")
    ] = None,
) -> None:
    """Average models of one architecture, tensor by tensor."""
    from edufast.models.averaging import average_files

    if len(files) < 2:
        fail(f"files: only {files[0]}; expected two or more", 2)
    try:
        numbers = None if weights is None else [float(w) for w in weights.split(",")]
    except ValueError:
        fail(f"--weights: {weights!r}; expected numbers, comma-separated", 2)
    average_files(files, out, numbers)
    say(f"{out}: average of {len(files)} files")
