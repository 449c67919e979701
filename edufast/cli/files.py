"""Commands on files of weights: export, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edufast.cli.common import JsonOption, fail, say, user
from edufast.cli.options import path_of, text_of
from edufast.experiments import RUN_FILE
from edufast.utils.errors import one_line


def export(
    source: Annotated[
        Path, typer.Argument(parser=path_of("source"), help="A run folder or a .safetensors file.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", parser=path_of("--out"), help="File to write.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--data"),
            help="Data set or folder to verify on (default: the one trained on).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--model"),
            help="Import path of its model, if it has one: a file alone does not make edufast run "
            "code. Of a run folder, config.yaml says it.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained student as one verified file for the edge (ONNX)."""
    from edufast.data import load_dataset, runs_code
    from edufast.data.datasets import OnError
    from edufast.edge.parity import ExportError
    from edufast.edge.trained import export_trained, write_script
    from edufast.experiments.run import RunConfig
    from edufast.experiments.schema import read_section
    from edufast.models.weights import load_model

    weights = source / "student.safetensors" if source.is_dir() else source
    config = source / RUN_FILE
    on_error: OnError = "stop"
    if config.is_file():  # the user's own recipe
        recipe = user(read_section, RunConfig, config).recipe
        on_error = recipe.data.on_error
        data, model = data or recipe.data.source, model or recipe.student.model
    network, info = user(load_model, weights, model=model)
    if data is None and runs_code(info.data):
        fail(
            f"{weights} was trained on {info.data!r}, and reading that runs code; expected --data "
            "to name it, or other images",
            2,
        )
    images = user(load_dataset, data or info.data, image_size=info.image_size, on_error=on_error)
    path = out or weights.with_suffix(".onnx")
    try:
        report = user(export_trained, network, info, images, path)
    except ExportError as error:
        fail(str(error), 1)
    except ValueError as error:  # the images do not fit the model
        fail(f"{weights}: {one_line(error)}", 2)
    if source.is_dir() and out is None:
        user(write_script, source)
    if as_json:
        print(json.dumps({"event": "export", **report.to_dict()}))
    else:
        say(
            f"{path}: {report.bytes / 1e6:.2f} MB, agreement with PyTorch "
            f"{report.parity.agreement:.1%} on {report.parity.samples} images"
        )


def merge(
    files: Annotated[
        list[Path], typer.Argument(parser=path_of("files"), help="Two or more .safetensors files.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=path_of("--out"), help="File to write.")
    ],
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
    user(average_files, files, out, numbers)
    say(f"{out}: average of {len(files)} files")
