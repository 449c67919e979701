"""The command that lists runs, and compares two."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edufast.cli.common import fail, say, show, table
from edufast.cli.options import JsonOption, path_of

if TYPE_CHECKING:
    from edufast.experiments.runs import Comparison, RunState


def runs(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=path_of("paths"), help="A folder that holds runs (default: runs), or two runs."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs in a folder, or compare two: edufast runs A B.

    A comparison shows the recipe keys in which they differ, and their results
    side by side.
    """
    from edufast.experiments.runs import compare_runs, find_runs, run_state

    given = paths or [Path("runs")]
    if len(given) == 1:
        found = [run_state(path) for path in find_runs(given[0])]
        if as_json:
            print(json.dumps([asdict(each) | {"path": str(each.path)} for each in found]))
        else:
            _list(found, given[0])
    elif len(given) == 2:
        compared = compare_runs(*given)
        if as_json:
            print(json.dumps(asdict(compared)))
        else:
            _compare(compared, *given)
    else:
        fail(f"paths: {len(given)} folders; expected one that holds runs, or two runs", 2)


def _list(found: list[RunState], folder: Path) -> None:
    from edufast.experiments.report.format import percent, seconds

    rows = table("run", "state", "grade", "accuracy", "time", wraps=["run"])
    for each in found:
        rows.add_row(
            str(each.path),
            each.state,
            "" if each.grade is None else f"{each.grade}/{each.grades}",
            "" if each.accuracy is None else percent(each.accuracy),
            seconds(each.seconds) if each.seconds else "",
        )
    show(rows)
    for each in found:
        if each.note:
            say(f"{each.path}: {each.note}")
    if not found:
        say(f"{folder} holds no runs")


def _compare(compared: Comparison, one: Path, other: Path) -> None:
    if compared.keys:
        keys = table("recipe key", str(one), str(other), wraps=[str(one), str(other)])
        for key, old, new in compared.keys:
            keys.add_row(key, _value(old), _value(new))
        show(keys)
    else:
        typer.echo("the recipes are the same")
    typer.echo()
    results = table("result", str(one), str(other), wraps=[str(one), str(other)])
    for name, old_text, new_text in compared.results:
        results.add_row(name, old_text or "", new_text or "")
    show(results)


def _value(value: object) -> str:
    from edufast.experiments.schema import quoted

    return "none" if value is None else quoted(value)
