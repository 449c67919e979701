"""What the commands share: where they print, how they fail, options that several take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import torch
import typer
from rich.console import Console

from edufast.utils.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

console = Console(stderr=True)  # people read here; programs read standard output

DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def device_name(name: str) -> str:
    """``name``, with auto resolved.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device: {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device: {name!r}, but torch finds no CUDA device here")
    return name


def user(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Call ``function``; what the user got wrong ends the command in one line and code 2."""
    try:
        return function(*arguments, **keywords)
    except UserError as error:
        fail(str(error), 2)


def fail(message: str, code: int) -> NoReturn:
    """End the command in one line."""
    console.print(f"[red]edufast:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
