"""The command that goes from a recipe to a bundle that was replayed."""

from __future__ import annotations

import json
from dataclasses import asdict

from edufast.cli.common import fail, say, user
from edufast.cli.options import (
    DeviceOption,
    EarlyExitOption,
    JsonOption,
    MaxDropOption,
    OutOption,
    RecipeArgument,
    SetOption,
    ToOption,
)
from edufast.cli.train import train
from edufast.cli.verify import print_replays
from edufast.edge import MAX_DROP
from edufast.utils.errors import UserError, one_line


def pipeline(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    to: ToOption = "onnx,onnx-int8",
    max_drop: MaxDropOption = MAX_DROP,
    early_exit: EarlyExitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train by a recipe, export, check, bundle, replay and report.

    The same command continues where it stopped; nothing is made again unless
    its inputs or packages have changed. Exit codes: 0 there is a bundle that
    passed every check; 1 a step or a check failed, an earlier bundle stays;
    2 the recipe or an option is invalid; 130 stopped.
    """
    from edufast.edge.bundle import bundled_formats
    from edufast.edge.exit_choice import Target
    from edufast.edge.export import check_request
    from edufast.edge.parity import ExportError
    from edufast.edge.replay import ReplayError
    from edufast.experiments.pipeline import Gates, deliver

    formats = tuple(to.split(","))
    user(bundled_formats, formats)
    try:
        check_request({}, max_drop)
    except ValueError as error:
        fail(str(error), 2)
    early = None if early_exit is None else user(Target.parse, early_exit)
    if early is not None:
        user(_check_exits, recipe, set_ or [])
    folder = train(recipe, out, set_, device, as_json=as_json)
    try:
        delivered = user(deliver, folder, Gates(formats, max_drop, early))
    except (ExportError, ReplayError) as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on", 130)
    except ValueError as error:
        fail(f"{folder}: {one_line(error)}", 2)
    if as_json:
        for each in delivered.replays:
            print(json.dumps({"event": "verify", **asdict(each)}))
        said = {"bundle": str(delivered.path), "cached": delivered.cached}
        print(json.dumps({"event": "pipeline", **said}))
    else:
        print_replays(delivered.replays)
        say(f"bundle{' (made before)' if delivered.cached else ''}: {delivered.path}")


def _check_exits(recipe: str, overrides: list[str]) -> None:
    """
    Raises:
        UserError: the student of the recipe has no exits, or the recipe makes no sense.
    """
    from edufast.experiments.recipe import read_recipe
    from edufast.experiments.written import as_written

    if not as_written(read_recipe(recipe, overrides), recipe).curriculum.keeps_exits:
        raise UserError(
            f"--early-exit needs a student with exits, and that of {recipe} has none; expected "
            "curriculum.exit_weight above 0"
        )
