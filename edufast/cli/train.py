"""Commands that train: teach, train, compare, sweep, resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar, get_args

import typer

from edufast.cli.common import console, device_name, fail, say, table, user
from edufast.cli.environment import check_environment
from edufast.cli.options import (
    CacheOption,
    DeviceOption,
    EqualOption,
    JobsOption,
    JsonOption,
    LogOption,
    OutOption,
    RecipeArgument,
    SeedsOption,
    SetOption,
    TeachersOption,
    path_of,
)
from edufast.experiments import RUN_FILE, SWEEP_FILE
from edufast.utils.errors import Interrupted, TrainingError, unknown
from edufast.utils.extras import require_all

# The commands import what they train with themselves, so that --help is fast.
if TYPE_CHECKING:
    from rich.table import Table

    from edufast.experiments.decide import Decision
    from edufast.experiments.recipe import Recipe
    from edufast.experiments.report.summary import SweepSummary
    from edufast.experiments.run import Results
    from edufast.experiments.run_folder import RunConfig
    from edufast.experiments.sweep_config import SweepConfig

# For the whole run, from pictures to report: all that are missing are named in one error.
_NEEDS = {"train": ("PIL", "matplotlib"), "export": ("onnx", "onnxscript", "onnxruntime")}

P = ParamSpec("P")
T = TypeVar("T")
Name = TypeVar("Name", bound=str)


def teach(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Also store their logits for every view of every training sample in the run "
            "folder's cache/, for later runs with --cache. The views of training.augment must be "
            "countable: pad and flip, or replay.",
        ),
    ] = False,
) -> None:
    """Train only the teachers of a recipe, for later runs with --teachers."""
    from edufast.experiments.run_folder import RunConfig

    on = device_name(device)
    parsed, decisions, folder = _prepared(recipe, set_, on, out, "-teachers")
    config = RunConfig(
        recipe=parsed,
        decisions=decisions,
        methods=(),
        seeds=(parsed.seed,),
        device=on,
        cache=(folder / "cache").absolute() if cache else None,
    )
    _carry_out(config, folder)


def train(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    teachers: TeachersOption = None,
    cache: CacheOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--data"),
            help="Train on these pictures instead of the recipe's data: a folder of class folders, "
            "a .csv table, Parquet files, a data set saved by Hugging Face's datasets, tar shards, "
            "or arrays:FOLDER.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="About how long the run may take on this machine, for recipes that leave their "
            "length open, such as folder (default: 10).",
        ),
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> Path:
    """Train teachers and student by a recipe, export, verify and report.

    What the recipe leaves open is decided first and shown with the reasons. A
    usable model is written early and replaced by better ones: after Ctrl-C the
    run folder holds the best so far.
    """
    from edufast.experiments.recipe import read_recipe
    from edufast.experiments.run_folder import RunConfig
    from edufast.experiments.schema import written_value
    from edufast.experiments.written import is_open

    require_all("training", _NEEDS)
    changes = [*(set_ or [])]
    if data is not None:
        changes.append(f"data.source={written_value(str(data))}")
    if minutes is not None:
        if not is_open(read_recipe(recipe)):
            fail(f"--minutes: {recipe} sets how long it takes; expected a recipe such as folder", 2)
        changes.append(f"minutes={minutes:g}")
    on = device_name(device)
    parsed, decisions, folder = _prepared(recipe, changes, on, out)
    config = RunConfig(
        recipe=parsed,
        decisions=decisions,
        methods=("education", *parsed.baselines),
        seeds=(parsed.seed,),
        device=on,
        teachers=_absolute(teachers),
        cache=_absolute(cache),
    )
    _carry_out(config, folder, as_json, log)
    return folder


def compare(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    teachers: TeachersOption = None,
    seeds: SeedsOption = 3,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: scratch; kd (one full teacher); sizes (kd with growing "
            "images); routed, gated, joint, centred, energy (how slice teachers are merged); alone "
            "(the recipe's algorithm without grades); grades (without teachers); education."
        ),
    ] = "scratch,kd,routed,education",
    equal: EqualOption = "samples",
    cache: CacheOption = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the same student in several ways on equal budgets, with several seeds."""
    from edufast.experiments.events import Equal
    from edufast.experiments.method import METHODS
    from edufast.experiments.run_folder import RunConfig

    on = device_name(device)
    parsed, decisions, folder = _prepared(recipe, set_, on, out, "-compare")
    names = dict.fromkeys(name.strip() for name in methods.split(","))
    config = RunConfig(
        recipe=parsed,
        decisions=decisions,
        methods=tuple(_known("--methods", name, METHODS) for name in names),
        seeds=tuple(range(seeds)),
        equal=_known("--equal", equal, get_args(Equal)),
        device=on,
        export=False,
        teachers=_absolute(teachers),
        cache=_absolute(cache),
    )
    _carry_out(config, folder, as_json, log)


def sweep(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    seeds: SeedsOption = 5,
    teacher_seeds: Annotated[
        int, typer.Option(min=1, help="Sets of teachers, over which student seeds are spread.")
    ] = 1,
    data_seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Draws of the data, each with its own teachers, over which student seeds are "
            "spread.",
        ),
    ] = 1,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="Run every variant with each of these values, e.g. --vary method=alone,education "
            "(repeatable, for all combinations)."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only these variants, separated by semicolons.")
    ] = None,
    equal: EqualOption = "samples",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Store the teachers' logits in the folder, shared by all students. The views of "
            "training.augment must be countable: pad and flip, or replay.",
        ),
    ] = False,
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train variants of a recipe with several seeds each and compare them.

    The variants come from the recipe's section `variants`, from --vary, or else
    are the methods scratch, kd, routed, alone, grades and education. Teachers are
    trained once and shared. Run it again with the same folder to add variants and
    seeds.
    """
    from edufast.experiments.events import Equal
    from edufast.experiments.recipe import load_recipe
    from edufast.experiments.sweep_config import SweepConfig, with_variants

    names = [] if only is None else [name.strip() for name in only.split(";")]
    parsed = load_recipe(recipe, set_ or []).with_absolute_paths()
    config = SweepConfig(
        recipe=with_variants(parsed, vary or [], names),
        seeds=seeds,
        teacher_seeds=teacher_seeds,
        data_seeds=data_seeds,
        equal=_known("--equal", equal, get_args(Equal)),
        device=device_name(device),
        cache=cache,
    )
    _carry_out_sweep(config, out or Path("runs") / f"{parsed.name}-sweep", jobs, as_json)


def resume(
    run: Annotated[
        Path, typer.Argument(parser=path_of("run"), help="The folder of a run or a sweep.")
    ],
    jobs: JobsOption = 1,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Help the process that is running the sweep, here or on another machine that "
            "sees the folder at the same path.",
        ),
    ] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue an interrupted run or sweep at the step where it stopped."""
    from edufast.experiments.run_folder import RunFolder
    from edufast.experiments.sweep_config import SweepConfig, is_sweep

    if join and not is_sweep(run):
        fail(f"--join: {run} is not a sweep; expected the folder of one", 2)
    if is_sweep(run):
        if log is not None:
            fail(f"--log: {run} is a sweep; expected a run", 2)
        check_environment()  # again: not by ranks
        _carry_out_sweep(SweepConfig.read(run), run, jobs, as_json, join)
    else:
        _carry_out(RunFolder(run).read_config(), run, as_json, log)


def _prepared(
    recipe: str, overrides: list[str] | None, device: str, out: Path | None, suffix: str = ""
) -> tuple[Recipe, tuple[Decision, ...], Path]:
    """The recipe with nothing left open and all paths absolute, the decisions made for that, and
    the run's folder."""
    from edufast.experiments.open_recipe import complete
    from edufast.experiments.recipe import read_recipe
    from edufast.experiments.written import as_written
    from edufast.utils.ranks import from_first

    content = read_recipe(recipe, overrides or [])
    folder = out or Path("runs") / f"{as_written(content, recipe).name}{suffix}"
    return *_attempt(folder, from_first, complete, content, recipe, device, folder), folder


def decisions_table(decisions: tuple[Decision, ...]) -> Table:
    """A row for each decision."""
    found = table("recipe key", "decided", "because", wraps=["because"])
    for decision in decisions:
        found.add_row(decision.key, decision.said, decision.reason)
    return found


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _known(option: str, name: str, known: Iterable[Name]) -> Name:
    """The one of ``known`` that ``name`` is."""
    names = list(known)
    if name not in names:
        fail(str(unknown(option, name, names)), 2)
    return names[names.index(name)]


def _carry_out(
    config: RunConfig, folder: Path, as_json: bool = False, log: str | None = None
) -> None:
    from edufast.experiments.run import run
    from edufast.experiments.run_folder import RunFolder
    from edufast.utils.ranks import from_first, is_first

    _attempt(folder, from_first, RunFolder(folder).holds, config)  # or it is refused
    if config.decisions:
        console.print(decisions_table(config.decisions))
    trackers = [] if log is None else [name.strip() for name in log.split(",")]
    results = _attempt(folder, run, config, folder, console, trackers)
    if as_json and is_first():
        _print_json(results, folder)
    elif results:
        console.print(results_table(results))


def _print_json(results: Results, folder: Path) -> None:
    accuracy = {m: {seed: r.accuracy for seed, r in of.items()} for m, of in results.items()}
    best = {m: {seed: r.best_accuracy for seed, r in of.items()} for m, of in results.items()}
    print(json.dumps({"run": str(folder), "accuracy": accuracy, "best_accuracy": best}))


def results_table(results: Results) -> Table:
    """A row for each method of a comparison."""
    from edufast.experiments.report.format import si, spread

    found = table("method", "accuracy, last epoch", "best epoch", "student FLOPs", "seeds")
    for method, by_seed in results.items():
        seeds = list(by_seed.values())
        found.add_row(
            method,
            spread([result.accuracy for result in seeds]),
            spread([result.best_accuracy for result in seeds]),
            si(fmean(result.student_flops for result in seeds), "FLOP"),
            str(len(seeds)),
        )
    return found


def _carry_out_sweep(
    config: SweepConfig, folder: Path, jobs: int, as_json: bool, join: bool = False
) -> None:
    from edufast.experiments.sweep import join_sweep, run_sweep

    if join:
        summary = _attempt(folder, join_sweep, folder, jobs, console)
        if summary is None:
            say(f"all trainings are done; the process that began {folder} summarises them")
            return
    else:
        summary = _attempt(folder, run_sweep, config, folder, jobs, console)
    # Not earlier: it needs matplotlib, and run_sweep reports in one line if that is missing.
    from edufast.experiments.report.sweep import note

    if as_json:
        print(json.dumps(summary.to_dict()))
        return
    console.print(sweep_table(summary))
    say(note(summary))
    say(f"summary: {folder / 'sweep.md'}, report: {folder / 'report.html'}")


def sweep_table(summary: SweepSummary) -> Table:
    """A row for each variant of a sweep, with what fits a terminal: sweep.md has it all."""
    from edufast.experiments.report.sweep import HEADS, rows

    heads = "variant", "last epoch", "best epoch", "student FLOPs"
    found = table(*heads, wraps=["variant"])
    for row in rows(summary):
        cells = dict(zip(HEADS, row, strict=True))
        found.add_row(*(cells[head] for head in heads))
    return found


def _attempt(folder: Path, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Call ``work``, which goes on in ``folder``; what stops it ends the command in one line."""
    from edufast.edge.parity import ExportError

    try:
        return user(work, *arguments, **keywords)
    except (Interrupted, KeyboardInterrupt):
        begun = any((folder / name).is_file() for name in (RUN_FILE, SWEEP_FILE))
        fail(f"stopped; continue with: edufast resume {folder}" if begun else "stopped", 130)
    except (TrainingError, ExportError) as error:
        fail(str(error), 1)
