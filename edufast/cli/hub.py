"""The command that writes a trained student as a folder for timm or transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edufast.cli.common import say
from edufast.cli.options import out_path, path_of


def hub(
    source: Annotated[
        Path, typer.Argument(parser=path_of("source"), help="A run folder or a .safetensors file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", parser=out_path, help="Folder to write.")],
) -> None:
    """Write a trained student as a folder that timm or transformers loads.

    In Hugging Face's layout, with a model card, for an upload or for your own
    programs, which need no EduFast. The student is one of timm (timm/NAME) or
    of transformers (hf/NAME). Nothing is uploaded.
    """
    from edufast.experiments.exporting import trained_file
    from edufast.models.hub_folder import save_hub_folder
    from edufast.models.weights import load_model

    model, info = load_model(trained_file(source))
    save_hub_folder(out, model, info)
    say(f"{out}: {info.model} for {len(info.classes)} classes; its README.md shows how to load it")
