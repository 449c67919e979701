"""The command that replays a bundle on the machine where it is to be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edufast.cli.common import fail, say, show, table, user
from edufast.cli.options import JsonOption, path_of

if TYPE_CHECKING:
    from edufast.edge.replay import Replay


def verify(
    bundle: Annotated[
        Path,
        typer.Argument(
            parser=path_of("bundle"),
            help="A bundle that edufast export wrote (student.edge), or one model in it.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check a bundle on this machine: its hashes, and its answers for the images in it.

    Runs without torch. If a model does not give the same answers as where it was
    exported, the exit code is 1.
    """
    from edufast.edge.replay import ReplayError, replay

    try:
        replays = user(replay, bundle)
    except ReplayError as error:
        fail(str(error), 1)
    if as_json:
        for each in replays:
            print(json.dumps({"event": "verify", **asdict(each)}))
    else:
        print_replays(replays)


def print_replays(replays: Sequence[Replay]) -> None:
    """A row for each file, and where early exits were left."""
    numbers = "same class", "difference", "an image", "load", "memory"
    rows = table("file", *numbers, wraps=["file"])
    for each in replays:
        rows.add_row(
            each.file.name,
            f"{each.agreement:.1%}",
            f"{each.max_abs_difference:.2g}",
            f"{each.alone.median_ms:.2f} ms",
            f"{each.alone.load_ms:.1f} ms",
            f"{each.alone.peak_bytes / 1e6:.1f} MB",
        )
    show(rows)
    for each in replays:
        if each.shares is not None:
            left = ", ".join(f"{share:.0%} after {depth}" for depth, share in each.shares.items())
            say(f"{each.file.name}: of {each.images} images, {left} of the student's fragments")
