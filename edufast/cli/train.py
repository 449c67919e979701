"""Commands that train: teach, train, compare, sweep, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, cast, get_args

import typer
from rich.table import Table

from edufast.cli.common import DeviceOption, JsonOption, console, device_name, fail, user
from edufast.experiments.report.format import si, spread
from edufast.utils.errors import Interrupted, TrainingError

RecipeArgument = Annotated[
    str, typer.Argument(help="A shipped recipe's name, or the path of a YAML file.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/<recipe name>).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe, e.g. --set training.lr=0.05 (repeatable)."),
]
TeachersOption = Annotated[
    Path | None, typer.Option(help="Use the teachers of this run folder (see edufast teach).")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Keep the teachers' logits in this folder, for this and later students (see edufast "
        "teach --cache)."
    ),
]
EqualOption = Annotated[
    str,
    typer.Option(
        help="What the other methods get as much of as education distillation takes: samples, "
        "flops (of the student) or time (education goes first)."
    ),
]
JobsOption = Annotated[
    int,
    typer.Option("--jobs", "-j", min=1, help="Processes of a sweep; they share the CPU threads."),
]


def teach(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Store what they say about every view of every training sample, too, in the run "
            "folder's cache/, for later runs with --cache. Takes a training.augment that can be "
            "counted: pad and flip, or replay.",
        ),
    ] = False,
) -> None:
    """Train a recipe's teachers only, to be used by later runs with --teachers."""
    _execute(recipe, out, set_, device, methods=(), suffix="-teachers", fill_cache=cache)


def train(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    teachers: TeachersOption = None,
    cache: CacheOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Train on this folder of class folders instead of the recipe's data."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Distil a student by a recipe: teach, grow, graduate, export, verify, report."""
    from edufast.experiments.recipe import load_recipe

    overrides = list(set_ or [])
    if data is not None:
        overrides.append(f"data.source={json.dumps(str(data))}")
    baselines = user(load_recipe, recipe, overrides).baselines
    methods = ("education", *baselines)
    _execute(
        recipe, out, overrides, device, methods,
        teachers=teachers, cache=cache, as_json=as_json,
    )  # fmt: skip


def compare(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    teachers: TeachersOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Student seeds, from 0.")] = 3,
    methods: Annotated[
        str,
        typer.Option(
            help="Which, comma-separated: scratch; kd (one full teacher); routed (slice teachers); "
            "alone (the recipe's algorithm without grades); grades (without teachers); education."
        ),
    ] = "scratch,kd,routed,education",
    equal: EqualOption = "samples",
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the same student in several ways on an equal budget, several seeds."""
    names = tuple(dict.fromkeys(name.strip() for name in methods.split(",")))
    _execute(
        recipe, out, set_, device, names, suffix="-compare",
        seeds=tuple(range(seeds)), equal=equal, export=False, teachers=teachers, cache=cache,
        as_json=as_json,
    )  # fmt: skip


def sweep(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Student seeds, from 0.")] = 5,
    teacher_seeds: Annotated[
        int, typer.Option(min=1, help="Sets of teachers; student seeds take turns on them.")
    ] = 1,
    data_seeds: Annotated[
        int, typer.Option(min=1, help="Draws of the data, each with teachers of its own; likewise.")
    ] = 1,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="Run every variant with each of these, e.g. --vary method=alone,education "
            "(repeatable: every combination)."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only these variants, separated by semicolons.")
    ] = None,
    equal: EqualOption = "samples",
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train variants of a recipe with several seeds each and compare them.

    The variants are those of the recipe's section `variants`, else what --vary makes of it, else
    every method. Teachers are trained once and shared. The same folder takes further variants and
    seeds.
    """
    from edufast.experiments.recipe import load_recipe
    from edufast.experiments.sweep import SweepConfig, with_variants

    names = [] if only is None else [name.strip() for name in only.split(";")]
    parsed = user(load_recipe, recipe, set_ or []).located()
    config = SweepConfig(
        recipe=user(with_variants, parsed, vary or [], names),
        seeds=seeds,
        teacher_seeds=teacher_seeds,
        data_seeds=data_seeds,
        equal=_equal(equal),
        device=user(device_name, device),
    )
    _carry_out_sweep(config, out or Path("runs") / f"{parsed.name}-sweep", jobs, as_json)


def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run or a sweep.")],
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Go on with an interrupted run or sweep, at the step where it stopped."""
    from edufast.experiments.run import RunConfig
    from edufast.experiments.sweep import CONFIG, SweepConfig

    if (run / CONFIG).is_file():
        _carry_out_sweep(user(SweepConfig.read, run), run, jobs, as_json)
        return
    _carry_out(user(RunConfig.read, run), run, as_json)


def _execute(
    recipe: str,
    out: Path | None,
    overrides: list[str] | None,
    device: str,
    methods: tuple[str, ...],
    *,
    suffix: str = "",
    seeds: tuple[int, ...] | None = None,
    equal: str = "samples",
    export: bool = True,
    teachers: Path | None = None,
    cache: Path | None = None,
    fill_cache: bool = False,
    as_json: bool = False,
) -> None:
    from edufast.experiments.method import METHODS
    from edufast.experiments.recipe import load_recipe
    from edufast.experiments.run import RunConfig

    parsed = user(load_recipe, recipe, overrides or []).located()
    for method in methods:
        if method not in METHODS:
            fail(f"--methods: {method!r}; expected some of {', '.join(METHODS)}", 2)
    folder = out or Path("runs") / f"{parsed.name}{suffix}"
    if fill_cache:
        cache = folder / "cache"
    config = RunConfig(
        recipe=parsed,
        methods=cast(Any, methods),
        seeds=seeds or (parsed.seed,),
        equal=_equal(equal),
        device=user(device_name, device),
        export=export,
        teachers=None if teachers is None else teachers.absolute(),
        cache=None if cache is None else cache.absolute(),
    )
    _carry_out(config, folder, as_json)


def _carry_out(config: Any, folder: Path, as_json: bool) -> None:
    from edufast.experiments.run import Run

    results = _attempt(lambda: Run(config, folder, console).execute(), folder)
    if as_json:
        fields = {
            key: {
                method: {seed: getattr(result, key) for seed, result in by_seed.items()}
                for method, by_seed in results.items()
            }
            for key in ("accuracy", "best_accuracy")
        }
        print(json.dumps({"run": str(folder), **fields}))
    elif results:
        table = Table("method", "accuracy, last epoch", "best epoch", "student FLOPs", "seeds")
        for method, by_seed in results.items():
            seeds = list(by_seed.values())
            table.add_row(
                method,
                spread([result.accuracy for result in seeds]),
                spread([result.best_accuracy for result in seeds]),
                si(fmean(result.student_flops for result in seeds), "FLOP"),
                str(len(seeds)),
            )
        console.print(table)


def _carry_out_sweep(config: Any, folder: Path, jobs: int, as_json: bool) -> None:
    from edufast.experiments.report.sweep import HEADS, note, rows, to_json
    from edufast.experiments.sweep import Sweep

    summary = _attempt(lambda: Sweep(config, folder, console).execute(jobs), folder)
    if as_json:
        print(to_json(summary), end="")
        return
    table = Table(*HEADS)
    for row in rows(summary):
        table.add_row(*row)
    console.print(table)
    console.print(note(summary))
    console.print(f"summary: {folder / 'sweep.md'}, report: {folder / 'report.html'}")


def _attempt(work: Callable[[], Any], folder: Path) -> Any:
    """What ``work`` returns; what stops it ends the command in one line."""
    from edufast.edge.parity import ExportError

    try:
        return user(work)
    except (Interrupted, KeyboardInterrupt):
        fail(f"stopped; go on with: edufast resume {folder}", 130)
    except (TrainingError, ExportError) as error:
        fail(str(error), 1)


def _equal(name: str) -> Any:
    from edufast.experiments.events import Equal

    if name not in get_args(Equal):
        fail(f"--equal: {name!r}; expected one of {', '.join(get_args(Equal))}", 2)
    return name
