"""Commands that inform: recipes, doctor, and the option --version."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from edufast.cli.common import device_name, fail, show, table
from edufast.cli.options import JsonOption

if TYPE_CHECKING:
    from edufast.experiments.recipe import Recipe


def version(asked: bool) -> None:
    """Print what is installed and end, if ``asked``."""
    if not asked:
        return
    from importlib.metadata import version as installed

    from edufast import __version__

    typer.echo(f"edufast {__version__}")
    typer.echo(f"torch {installed('torch')}")
    try:
        from edufast import _build
    except ImportError as error:
        fail(f"the compiled operators are missing: {error}", 1)
    typer.echo(
        f"operators built with {_build.cxx}, torch {_build.torch}, stable ABI {_build.torch_target}"
    )
    typer.echo(f"CUDA kernels: {_build.cuda}")
    raise typer.Exit


def recipes(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Describe this one: a shipped recipe's name, or a YAML file."),
    ] = None,
) -> None:
    """List the recipes that come with the package, or describe one and what it costs."""
    from edufast.experiments.recipe import read_recipe, shipped_recipes
    from edufast.experiments.written import as_written

    if recipe is None:
        _list([as_written(read_recipe(name), name) for name in shipped_recipes()])
    else:
        _describe(as_written(read_recipe(recipe), recipe))


def _list(shipped: list[Recipe]) -> None:
    from edufast.data.outline import outline

    wraps = ["data", "teachers to student"]  # the rest is to be typed
    listed = table("recipe", *wraps, wraps=wraps)
    sources = {}
    for recipe in shipped:
        if recipe.minutes is not None:
            listed.add_row(recipe.name, "your pictures", "decided for your pictures")
            continue
        data = recipe.data.source.partition(":")[0]
        if known := outline(data):
            sources[data] = known.source
        told = f"{_teachers(recipe)} to {_short(recipe.student.model)}"
        listed.add_row(recipe.name, data, told)
    show(listed)
    typer.echo("\nWhat one of them takes: edufast recipes RECIPE\n")
    for data, source in sources.items():
        typer.echo(f"{data}: {source}")


def _describe(recipe: Recipe) -> None:
    from edufast.data.outline import outline
    from edufast.experiments.cost import expected_cost
    from edufast.experiments.pace import Pace, expected_duration
    from edufast.experiments.report.format import seconds, si

    data = recipe.data.source
    if recipe.minutes is not None:
        described = table("recipe", recipe.name, wraps=[recipe.name])
        described.add_row("data", data)
        described.add_row("source", "a folder of yours")
        open_ = f"open settings are decided before a run begins, for {recipe.minutes:g} minutes"
        described.add_row("total", f"depends on the pictures: {open_}")
        show(described)
        return
    teachers, student = _teachers(recipe), _short(recipe.student.model)
    known = outline(data)
    if known:
        size = recipe.data.image_size or known.image_size
        data += f": {len(known.train)} classes, {sum(known.train):,} training images"
        data += f" of {size} x {size} pixels"
    cost = expected_cost(recipe)
    if cost:
        teachers += f": {si(sum(cost.teaching_flops), 'FLOP')} of training"
        teachers += f", {si(sum(cost.forward_flops), 'FLOP')} of forward passes"
        student += f": {cost.samples:,} samples, {si(cost.student_flops, 'FLOP')} of training"
        pace = Pace(device_name("auto"), recipe.training)
        duration = expected_duration(recipe, cost, size, pace)
        total = f"{si(cost.flops, 'FLOP')}, about {seconds(duration.total)} on this machine"
        total += ", not counting baselines and validation"
    else:
        total = "depends on the number of images"

    described = table("recipe", recipe.name, wraps=[recipe.name])
    described.add_row("data", data)
    described.add_row("source", known.source if known else "a folder of yours")
    described.add_row("teachers", teachers)
    described.add_row("student", student)
    described.add_row("algorithm", recipe.algorithm.name)
    described.add_row("total", total)
    show(described)


def _teachers(recipe: Recipe) -> str:
    counts = Counter(_short(teacher.model) for teacher in recipe.teachers)
    return ", ".join(f"{count} {model}" for model, count in counts.items()) or "no teachers"


def _short(model: str) -> str:
    return model.removeprefix("torchvision/")


def doctor(as_json: JsonOption = False) -> None:
    """Show what this installation can do, and what it lacks."""
    from edufast.cli.doctor import diagnose

    checks = diagnose()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=2))
    else:
        found = table("", "what", "found", wraps=["found"])
        for check in checks:
            mark = Text("ok", "green") if check.ok else Text("--", "yellow")
            found.add_row(mark, check.what, check.found)
        show(found)
    if not all(check.ok for check in checks if check.needed):
        raise typer.Exit(1)
