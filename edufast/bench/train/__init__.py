"""``edufast bench train``: the whole training step compared with the loops that people run.

In one run, on the same data, models, batch size and loss: (a) the plain loop of popular
repositories, (b) the same loop as a careful user optimises it, (c) this project, adding one
optimisation after another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from edufast.bench.results import differences, read, write
from edufast.bench.timing import machine
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


def run(
    pairs: Sequence[str],
    batch_sizes: Sequence[int],
    device: str,
    *,
    quick: bool,
    done: list[dict[str, Any]],
    report: Callable[[str], None],
    save: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Measure every pair at every batch size; one dict each.

    Args:
        pairs: names in ``PAIRS``.
        device: "cpu" or a CUDA device.
        quick: fewer and shorter rounds, without compilation.
        done: results of an earlier run, which are not measured again; a run that is not quick
            measures quick results again.
        report: called with what is being measured.
        save: called after every contest with all results so far.
    """
    results = {(r["pair"], r["batch_size"]): r for r in done}
    for name in pairs:
        for batch_size in batch_sizes:
            before = results.get((name, batch_size))
            if before is not None and (quick or not before["quick"]):
                continue
            setting = synthetic(PAIRS[name], batch_size, torch.device(device))
            report(f"{name}, batch {batch_size}")
            torch.compiler.reset()
            scores = compete(
                contestants(setting, compiling=not quick),
                batch_size,
                setting.device,
                seconds=0.5 if quick else 1.0,
                rounds=2 if quick else 3,
                report=report,
            )
            results[name, batch_size] = {
                "pair": name,
                "batch_size": batch_size,
                "quick": quick,
                "epoch_samples": len(setting.data.train),
                "results": {who: s.result(batch_size) for who, s in scores.items()},
            }
            save(list(results.values()))
    return list(results.values())


def main(
    quick: bool,
    out: Path | None,
    device: str,
    threads: int | None,
    pairs: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
) -> None:
    """Print a table for every pair and batch size.

    With ``out``, write train.json, train.md and train.png into that folder after every contest.
    Contests that train.json already has, from the same machine, are not measured again.

    Raises:
        UserError: a pair is unknown, or needs a GPU and there is none.
    """
    pairs, batch_sizes = _chosen(quick, device, pairs, batch_sizes)
    where = _machine(device, threads)
    done = _read(out, where) if out else []

    def save(results: list[dict[str, Any]]) -> None:
        if out is not None:
            _write(out, where, results)

    with Console(stderr=True).status("") as status:
        results = run(
            pairs,
            batch_sizes,
            device,
            quick=quick,
            done=done,
            report=status.update,
            save=save,
        )
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for result in results:
        console.print(show.table(result))
    for name in pairs:
        console.print(show.cost_table(name, training_costs(PAIRS[name])))


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
    (name, *_), (batch_size, *_) = _chosen(False, device, pairs, batch_sizes)
    _machine(device, threads)
    with Console(stderr=True).status(f"{name}, batch {batch_size}: profile"):
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

    where = _machine(device, threads)
    with Console(stderr=True).status("") as status:
        result = accuracy.compare(seeds, torch.device(device), status.update)
    Console().print(accuracy.table(result))
    if out is not None:
        with atomic_write(out / "accuracy.json") as path:
            path.write_text(json.dumps({"machine": where, **result}, indent=1), "utf-8")


def _machine(device: str, threads: int | None) -> dict[str, Any]:
    if threads:
        torch.set_num_threads(threads)
    return machine(device)


def _chosen(
    quick: bool, device: str, pairs: Sequence[str], batch_sizes: Sequence[int]
) -> tuple[Sequence[str], Sequence[int]]:
    cuda = torch.device(device).type == "cuda"
    small = [name for name, pair in PAIRS.items() if pair.image_size <= 32]
    for name in pairs:
        if name not in PAIRS:
            raise UserError(f"--pairs: {name!r}; expected one or more of {', '.join(PAIRS)}")
        if name not in small and not cuda:
            raise UserError(f"--pairs: {name} needs a GPU")
    default = [QUICK[0]] if quick else list(PAIRS) if cuda else small
    return pairs or default, batch_sizes or (
        QUICK[1] if quick else BATCH_SIZES["cuda" if cuda else "cpu"]
    )


def _read(out: Path, where: dict[str, Any]) -> list[dict[str, Any]]:
    path = out / "train.json"
    if not path.exists():
        return []
    before = read(path)
    differing = differences(before["machine"], where)
    if differing:
        raise UserError(f"{path}: {differing[0]}; choose another folder")
    results: list[dict[str, Any]] = before["results"]
    return results


def _write(out: Path, where: dict[str, Any], results: list[dict[str, Any]]) -> None:
    write(out / "train.json", where, all(r["quick"] for r in results), results)
    with atomic_write(out / "train.md") as path:
        path.write_text(show.markdown(where, results), "utf-8")
    with atomic_write(out / "train.png") as path:
        path.write_bytes(show.plot(results))
