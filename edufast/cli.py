"""The command line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

from edufast.errors import Interrupted, TrainingError, UserError
from edufast.report.format import mean, si, spread

app = typer.Typer(
    help="Education distillation: big expert classifiers into a small edge model, fast.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)  # people read here; programs read standard output

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
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.")
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
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


@app.command()
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
    from edufast.recipe import load_recipe

    overrides = list(set_ or [])
    if data is not None:
        overrides.append(f"data.source={json.dumps(str(data))}")
    baselines = _user(load_recipe, recipe, overrides).baselines
    methods = ("education", *baselines)
    _execute(
        recipe, out, overrides, device, methods,
        teachers=teachers, cache=cache, as_json=as_json,
    )  # fmt: skip


@app.command()
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


@app.command()
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
    from edufast.recipe import load_recipe
    from edufast.sweep import SweepConfig, with_variants

    names = [] if only is None else [name.strip() for name in only.split(";")]
    parsed = _user(load_recipe, recipe, set_ or []).located()
    config = SweepConfig(
        recipe=_user(with_variants, parsed, vary or [], names),
        seeds=seeds,
        teacher_seeds=teacher_seeds,
        data_seeds=data_seeds,
        equal=_equal(equal),
        device=_user(_device, device),
    )
    _carry_out_sweep(config, out or Path("runs") / f"{parsed.name}-sweep", jobs, as_json)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run or a sweep.")],
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Go on with an interrupted run or sweep, at the step where it stopped."""
    from edufast.runs import RunConfig
    from edufast.sweep import CONFIG, SweepConfig

    if (run / CONFIG).is_file():
        _carry_out_sweep(_user(SweepConfig.read, run), run, jobs, as_json)
        return
    _carry_out(_user(RunConfig.read, run), run, as_json)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run folder or a .safetensors file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data set or folder to verify on (default: the one trained on)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained student as one verified file for the edge (ONNX)."""
    from edufast.artifact import load_model
    from edufast.data import load_dataset
    from edufast.export import ExportError
    from edufast.export.trained import export_trained

    weights = source / "student.safetensors" if source.is_dir() else source
    model, info = _user(load_model, weights)
    images = _user(load_dataset, data or info.data, image_size=info.image_size)
    path = out or weights.with_suffix(".onnx")
    try:
        report = _user(export_trained, model, info, images, path)
    except ExportError as error:
        _fail(str(error), 1)
    if as_json:
        print(json.dumps(report.event()))
    else:
        console.print(
            f"{path}: {report.bytes / 1e6:.2f} MB, agreement with PyTorch "
            f"{report.parity.agreement:.1%} on {report.parity.samples} images"
        )


bench = typer.Typer(
    help="Measure kernels and training beside what you would use instead.", no_args_is_help=True
)
app.add_typer(bench, name="bench")

QuickOption = Annotated[bool, typer.Option("--quick", help="Fewer sizes: under a minute.")]
BenchOutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the numbers (JSON) and the plot.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's).")]


@bench.command("kd")
def bench_kd(
    quick: QuickOption = False,
    out: BenchOutOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """The multi-teacher loss beside eager PyTorch, torch.compile, Liger-Kernel and the floors."""
    from edufast.bench import kd_loss

    kd_loss.main(quick, out, _user(_device, device), threads)


@bench.command("merge")
def bench_merge(
    quick: QuickOption = False,
    out: BenchOutOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Merging parameter lists beside torch._foreach, a Python loop, timm's EMA and the floor."""
    from edufast.bench import merge

    merge.main(quick, out, _user(_device, device), threads)


@bench.command("train")
def bench_train(
    quick: Annotated[
        bool, typer.Option("--quick", help="One pair, one batch size: under two minutes.")
    ] = False,
    pairs: Annotated[
        str, typer.Option(help="Which teacher-student pairs, comma-separated (default: all).")
    ] = "",
    batch: Annotated[
        str,
        typer.Option(help="Batch sizes, comma-separated (default: 64,256; on a GPU 1024, too)."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for JSON, Markdown and plot; what is there is not repeated."
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Instead, a trace and a plot of one step.")
    ] = False,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Instead, whether the fast way learns as well.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Students, with --accuracy.")] = 3,
) -> None:
    """Training steps beside a plain loop, a careful one and the arithmetic alone."""
    from edufast.bench import train

    where = _user(_device, device)
    which = (_listed(pairs), _user(_positive_integers, "--batch", batch))
    if accuracy:
        _user(train.main_accuracy, out, where, threads, seeds)
    elif profile:
        _user(train.main_profile, out, where, threads, *which)
    else:
        _user(train.main, quick, out, where, threads, *which)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Two or more .safetensors files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    weights: Annotated[
        str | None, typer.Option(help="Their weights, comma-separated (default: equal).")
    ] = None,
) -> None:
    """Average models of one architecture, tensor by tensor."""
    from edufast.merging import average_files

    try:
        numbers = None if weights is None else [float(w) for w in weights.split(",")]
    except ValueError:
        _fail(f"--weights: {weights!r}; expected numbers, comma-separated", 2)
    _user(average_files, files, out, numbers)
    console.print(f"{out}: average of {len(files)} files")


@app.command()
def recipes() -> None:
    """List the recipes that come with the package."""
    from edufast.cost import expected_cost
    from edufast.data.outline import outline
    from edufast.recipe import load_recipe, shipped_recipes
    from edufast.report.format import seconds

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


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show what this installation can do, and why not more."""
    from edufast.doctor import diagnose

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
    from edufast.methods import METHODS
    from edufast.recipe import load_recipe
    from edufast.runs import RunConfig

    parsed = _user(load_recipe, recipe, overrides or []).located()
    for method in methods:
        if method not in METHODS:
            _fail(f"--methods: {method!r}; expected some of {', '.join(METHODS)}", 2)
    folder = out or Path("runs") / f"{parsed.name}{suffix}"
    if fill_cache:
        cache = folder / "cache"
    config = RunConfig(
        recipe=parsed,
        methods=cast(Any, methods),
        seeds=seeds or (parsed.seed,),
        equal=_equal(equal),
        device=_user(_device, device),
        export=export,
        teachers=None if teachers is None else teachers.absolute(),
        cache=None if cache is None else cache.absolute(),
    )
    _carry_out(config, folder, as_json)


def _carry_out(config: Any, folder: Path, as_json: bool) -> None:
    from edufast.runs import Run

    results = _attempt(lambda: Run(config, folder, console).execute(), folder)
    if as_json:
        fields = {
            key: {
                method: {seed: result[key] for seed, result in by_seed.items()}
                for method, by_seed in results.items()
            }
            for key in ("accuracy", "best_accuracy")
        }
        print(json.dumps({"run": str(folder), **fields}))
    elif results:
        table = Table("method", "accuracy, last epoch", "best epoch", "student FLOPs", "seeds")
        for method, by_seed in results.items():
            events = list(by_seed.values())
            table.add_row(
                method,
                spread([event["accuracy"] for event in events]),
                spread([event["best_accuracy"] for event in events]),
                si(mean([event["student_flops"] for event in events]), "FLOP"),
                str(len(events)),
            )
        console.print(table)


def _carry_out_sweep(config: Any, folder: Path, jobs: int, as_json: bool) -> None:
    from edufast.report.sweep import HEADS, note, rows, to_json
    from edufast.sweep import Sweep

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
    from edufast.export import ExportError

    try:
        return _user(work)
    except (Interrupted, KeyboardInterrupt):
        _fail(f"stopped; go on with: edufast resume {folder}", 130)
    except (TrainingError, ExportError) as error:
        _fail(str(error), 1)


def _equal(name: str) -> Any:
    from edufast.methods import Equal

    if name not in get_args(Equal):
        _fail(f"--equal: {name!r}; expected one of {', '.join(get_args(Equal))}", 2)
    return name


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device: {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device: {name!r}, but torch finds no CUDA device here")
    return name


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _positive_integers(option: str, text: str) -> list[int]:
    parts = _listed(text)
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            raise UserError(f"{option}: {part!r}; expected positive integers, comma-separated")
    return [int(part) for part in parts]


def _user(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call ``function``; what the user got wrong ends the command in one line and code 2."""
    try:
        return function(*arguments, **keywords)
    except UserError as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    console.print(f"[red]edufast:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
