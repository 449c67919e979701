"""Options that several commands share, and their values: none is empty, which a shell makes of a
variable not set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edufast.cli.common import fail
from edufast.experiments import MAX_SEEDS


def path_of(name: str) -> Callable[[str], Path]:
    """A parser of the option or argument ``name``: an empty path would be the current folder, and
    of ``--out=~/runs`` shells leave the tilde as it is."""

    def path(value: str) -> Path:
        return Path(os.path.expanduser(_not_empty(name, value, "a file or folder")))

    return path


def out_path(value: str) -> Path:
    """A parser of ``--out``: under a name that is not UTF-8, libraries write no weights."""
    try:
        os.fsencode(value).decode("utf-8")
    except UnicodeDecodeError:
        fail(f"--out is {value!r}; expected a name in UTF-8", 2)
    return path_of("--out")(value)


def text_of(name: str) -> Callable[[str], str]:
    """A parser of the option or argument ``name``: it is not taken for one that is not given."""

    def text(value: str) -> str:
        return _not_empty(name, value, "text")

    return text


def _not_empty(name: str, value: str, expected: str) -> str:
    if not value.strip():
        fail(f"{name} is {value!r}; expected {expected}", 2)
    return value


RecipeArgument = Annotated[
    str, typer.Argument(help="A shipped recipe's name, or the path of a YAML file.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        parser=out_path,
        help="Run folder (default: runs/<recipe name>, followed by -teachers, -compare or -sweep "
        "for these commands).",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe, e.g. --set training.lr=0.05 (repeatable)."),
]
TeachersOption = Annotated[
    Path | None,
    typer.Option(
        parser=path_of("--teachers"),
        help="Use the teachers of this run folder (see edufast teach).",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        parser=path_of("--cache"),
        help="Store the teachers' logits in this folder, for this and later students (see edufast "
        "teach --cache).",
    ),
]
EqualOption = Annotated[
    str,
    typer.Option(
        help="Of what every method gets as much as education distillation: samples, flops (of the "
        "student) or time (education is then trained first)."
    ),
]
SeedsOption = Annotated[int, typer.Option(min=1, max=MAX_SEEDS, help="Student seeds, from 0.")]
LogOption = Annotated[
    str | None,
    typer.Option(
        "--log",
        parser=text_of("--log"),
        help="Also draw the curves in tensorboard (files in the run folder), wandb, mlflow or "
        "trackio; comma-separated.",
    ),
]
JobsOption = Annotated[
    int,
    typer.Option("--jobs", "-j", min=1, help="Parallel processes; they share the CPU threads."),
]
ToOption = Annotated[
    str,
    typer.Option(
        parser=text_of("--to"),
        help="Formats, comma-separated: onnx, executorch and litert (float32); onnx-int8, "
        "executorch-int8 and litert-int8 (8-bit integers).",
    ),
]
MaxDropOption = Annotated[
    float, typer.Option(help="Points of accuracy that an 8-bit integer file may lose.")
]
EarlyExitOption = Annotated[
    str | None,
    typer.Option(
        parser=text_of("--early-exit"),
        help="Also write a model that stops at the first confident exit: 0.5 loses at most half a "
        "point of accuracy, 60% takes at most that share of the FLOPs on average.",
    ),
]
