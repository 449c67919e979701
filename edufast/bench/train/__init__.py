"""``edufast bench train``: the whole training step compared with the loops that people run.

In one run, on the same data, models, batch size and loss: (a) the plain loop of popular
repositories, (b) the same loop as a careful user optimises it, (c) this project, adding one
optimisation after another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from edufast.bench.benchmark import Benchmark, Report
from edufast.bench.timing import machine, threads_for
from edufast.bench.train import show
from edufast.bench.train.contest import Contestant, compete
from edufast.bench.train.costs import training_costs
from edufast.bench.train.floor import Floor
from edufast.bench.train.ladder import (
    LoopOptions,
    SchoolLoop,
    WithFaculty,
    WithFusedLoss,
    WithLoader,
)
from edufast.bench.train.peers import CarefulLoop, PlainLoop
from edufast.bench.train.setting import PAIRS, Setting, fast_precision, synthetic
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

BATCH_SIZES = {"cpu": (64, 256), "cuda": (64, 256, 1024)}
QUICK = ("resnet110-resnet20", (64,))


def contestants(setting: Setting, *, compiling: bool) -> dict[str, Callable[[], Contestant]]:
    """All contestants, from the slowest to the floors; those that compile only if ``compiling``.

    Names that begin with + are this project's: each adds to the optimisations before it.
    """
    fast = fast_precision(setting.device)
    makers: dict[str, Callable[[], Contestant]] = {
        show.PLAIN: partial(PlainLoop, setting),
        show.CAREFUL_EAGER: partial(CarefulLoop, setting, compiled=False),
        show.CAREFUL: partial(CarefulLoop, setting, compiled=True),
        "+ Loader": partial(WithLoader, setting),
        "+ folded, channels-last": partial(WithFaculty, setting),
        "+ fused loss": partial(WithFusedLoss, setting),
        show.ROUTED: partial(SchoolLoop, setting, LoopOptions()),
        show.BF16: partial(SchoolLoop, setting, LoopOptions(fast)),
        show.COMPILED: partial(SchoolLoop, setting, LoopOptions(fast, True)),
        show.FILLING: partial(SchoolLoop, setting, LoopOptions(fast, cache="first")),
        show.CACHE: partial(SchoolLoop, setting, LoopOptions(fast, cache="warm")),
        show.CACHE_COMPILED: partial(SchoolLoop, setting, LoopOptions(fast, True, "warm")),
        show.FLOOR: partial(Floor, setting, LoopOptions(fast)),
        show.FLOOR_CACHED: partial(Floor, setting, LoopOptions(fast, cache="warm")),
    }
    return {n: make for n, make in makers.items() if compiling or n not in show.UNCOMPILED}


class Contest(NamedTuple):
    """A case of the benchmark: the name of a pair in ``PAIRS``, and a batch size."""

    pair: str
    batch_size: int


def measurer(quick: bool, device: str, report: Report) -> Callable[[Contest], dict[str, Any]]:
    """A function that measures a contest; ``quick``: fewer and shorter rounds, no compilation."""

    def measure(contest: Contest) -> dict[str, Any]:
        batch_size = contest.batch_size
        setting = synthetic(PAIRS[contest.pair], batch_size, torch.device(device))
        torch.compiler.reset()
        scores = compete(
            contestants(setting, compiling=not quick),
            batch_size,
            setting.device,
            seconds=0.5 if quick else 1.0,
            rounds=2 if quick else 3,
            report=report,
        )
        return {
            "epoch_samples": len(setting.data.train),
            "results": {who: s.result(batch_size) for who, s in scores.items()},
        }

    return measure


def cases(
    quick: bool, device: str, pairs: Sequence[str] = (), batch_sizes: Sequence[int] = ()
) -> list[Contest]:
    """What to measure: the pairs and batch sizes, or those for a device.

    Raises:
        UserError: a pair is unknown, or needs a GPU and there is none.
    """
    cuda = torch.device(device).type == "cuda"
    small = [name for name, pair in PAIRS.items() if pair.image_size <= 32]
    for name in pairs:
        if name not in PAIRS:
            raise UserError(f"--pairs: {name!r}; expected one or more of {', '.join(PAIRS)}")
        if name not in small and not cuda:
            raise UserError(f"--pairs: {name} needs a GPU")
    if not pairs:
        pairs = [QUICK[0]] if quick else list(PAIRS) if cuda else small
    batch_sizes = batch_sizes or (QUICK[1] if quick else BATCH_SIZES["cuda" if cuda else "cpu"])
    return [Contest(pair, size) for pair in pairs for size in batch_sizes]


def _shown(results: Sequence[dict[str, Any]]) -> list[Table]:
    pairs = dict.fromkeys(result["pair"] for result in results)
    costs = [show.cost_table(name, training_costs(PAIRS[name])) for name in pairs]
    return [show.table(result) for result in results] + costs


def _illustrate(
    folder: Path, machine: Mapping[str, Any], results: Sequence[dict[str, Any]]
) -> None:
    with atomic_write(folder / "train.md") as path:
        path.write_text(show.markdown(machine, results), "utf-8")
    with atomic_write(folder / "train.png") as path:
        path.write_bytes(show.plot(results))


BENCHMARK = Benchmark(
    "train",
    "Training steps, time for each image",
    "Beside the plain loop of popular repositories, a careful one, and arithmetic alone.",
    rivals=("(a)", "(b)", "floor"),
    cases=cases,
    known=Contest._asdict,
    title=show.title,
    measurer=measurer,
    shown=_shown,
    illustrate=_illustrate,
)


def main_profile(
    out: Path | None,
    device: str,
    threads: int | None,
    pairs: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
) -> None:
    """Write profile.json (a Chrome trace) and profile.png of this project's step into ``out``.

    Raises:
        UserError: ``out`` is None, or a pair is unknown or needs a GPU and there is none.
    """
    from edufast.bench.train import profile

    if out is None:
        raise UserError("--profile: expected --out with a folder for the trace")
    name, batch_size = cases(False, device, pairs, batch_sizes)[0]
    with (
        threads_for(threads),
        Console(stderr=True).status(f"{name}, batch {batch_size}: profile"),
    ):
        setting = synthetic(PAIRS[name], batch_size, torch.device(device))
        fast = fast_precision(setting.device)
        found = profile.profile_step(SchoolLoop(setting, LoopOptions(fast)), out / "profile.json")
    with atomic_write(out / "profile.png") as path:
        path.write_bytes(profile.plot(found, f"{name}, batch {batch_size}"))
    Console().print(profile.table(found))


def main_accuracy(out: Path | None, device: str, threads: int | None, seeds: int) -> None:
    """Print the accuracy of (a) and (c) after the same number of steps.

    With ``out``, write accuracy.json into that folder.
    """
    from edufast.bench.train import accuracy

    where = machine(device, threads)
    with threads_for(threads), Console(stderr=True).status("") as status:
        result = accuracy.compare(seeds, torch.device(device), status.update)
    Console().print(accuracy.table(result))
    if out is not None:
        with atomic_write(out / "accuracy.json") as path:
            path.write_text(json.dumps({"machine": where, **result}, indent=1), "utf-8")
