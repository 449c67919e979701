"""Commands that tell: recipes, doctor."""

from __future__ import annotations

import json
from collections import Counter

import typer
from rich.console import Console
from rich.table import Column, Table

from edufast.cli.common import JsonOption


def recipes() -> None:
    """List the recipes that come with the package."""
    from edufast.data.outline import outline
    from edufast.experiments.cost import expected_cost
    from edufast.experiments.recipe import load_recipe, shipped_recipes
    from edufast.experiments.report.format import seconds, si

    table = Table(
        Column("recipe", no_wrap=True), Column("data", no_wrap=True),
        Column("teachers to student", overflow="fold"), Column("student", no_wrap=True),
        Column("teachers", no_wrap=True), "at 1 TFLOP/s", show_edge=False, pad_edge=False,
        caption="Expected FLOPs of training the student, and of training the teachers and asking "
        "them; baselines come on top.",
    )  # fmt: skip
    sources = {}
    for name in shipped_recipes():
        recipe = load_recipe(name)
        data = recipe.data.source.partition(":")[0]
        if known := outline(data):
            sources[data] = known.source
        models = [f"{n} {model}" for model, n in Counter(t.model for t in recipe.teachers).items()]
        pair = f"{', '.join(models)} to {recipe.student.model}".replace("torchvision/", "")
        costs = ["?", "?", "?"]
        if cost := expected_cost(recipe):
            taught = cost.teacher_training_flops + cost.teacher_flops
            costs = [si(cost.student_flops, ""), si(taught, ""), seconds(cost.seconds(1e12))]
        table.add_row(name, data, pair, *costs)
    Console().print(table)
    for data, source in sources.items():
        typer.echo(f"{data}: {source}")


def doctor(as_json: JsonOption = False) -> None:
    """Show what this installation can do, and why not more."""
    from edufast.cli.doctor import diagnose

    checks = diagnose()
    if as_json:
        print(json.dumps([vars(check) for check in checks], indent=2))
    else:
        table = Table("", "what", "found", show_edge=False)
        for check in checks:
            table.add_row("[green]ok" if check.ok else "[yellow]--", check.what, check.found)
        Console().print(table)
    if not all(check.ok for check in checks if check.needed):
        raise typer.Exit(1)
