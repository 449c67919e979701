"""edufast train folder against a plain loop with the same student, at equal processor time.

    python benchmarks/own_pictures/contest.py PHOTOGRAPHS [--minutes 1] [--seeds 3] [SET...]

Every contestant is a process of its own with one thread. The plain loop gets the processor seconds
that the whole command took before it: starting, measuring, exporting and the report included. The
clock is that of the processor, because a machine that others use, too, has no other; minutes are
minutes of it. With --weights FILE, of a resnet8, both start from these. Results are added to
contest.json, and to the table in docs/own_pictures.md; the same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from results import HERE, ROOT, Results, put_table, spread

RESULTS = Results(HERE / "contest.json")
SETS = (
    "caltech101-5x40", "caltech101-12x40", "caltech101-101x10",
    "food101-12x10", "food101-12x40", "food101-12x200", "food101-40x200",
    "cifar100-40x40", "digits-10x40", "glyphs-60x40",
)  # fmt: skip
LEAST_SIZE = 32  # of the plain loop's images, in pixels


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("photographs", type=Path)
    options.add_argument("sets", nargs="*", default=SETS)
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--weights", type=Path, help="of a resnet8, for both to start from")
    options.add_argument("--work", type=Path, default=ROOT / "data" / "own_pictures")
    asked = options.parse_args()

    from sets import write_set

    for seed in range(asked.seeds):
        for name in asked.sets:
            pretrained = asked.weights is not None
            key = {"set": name, "seed": seed, "minutes": asked.minutes, "pretrained": pretrained}
            if not RESULTS.has(key):
                folder = asked.work / f"{name}-{seed}"
                write_set(name, asked.photographs, folder, seed)
                result = {**key, **compete(folder, asked.minutes, seed, asked.weights)}
                RESULTS.add(result)
            write_table()


def compete(folder: Path, minutes: float, seed: int, weights: Path | None) -> dict[str, Any]:
    """What both contestants reach."""
    start = [] if weights is None else [weights.absolute()]
    ours = _process("ours", folder, minutes, seed, *start)
    size = max(LEAST_SIZE, ours["size"])
    plain = _process("plain", folder, ours["student"], size, ours["seconds"], seed, *start)
    return {**ours, "plain": plain["accuracy"]}


def _process(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contestant", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(folder: Path, minutes: str, seed: str, weights: str | None = None) -> dict[str, Any]:
    """As ``edufast train folder --data folder/pictures`` does, with the processor's clock."""
    from sets import mirrors

    from edufast.edge.predict import predict
    from edufast.experiments.open_recipe import complete
    from edufast.experiments.recipe import read_recipe
    from edufast.experiments.run import run
    from edufast.experiments.run_folder import RunConfig

    out = folder / f"run-{minutes}"
    shutil.rmtree(out, ignore_errors=True)  # of a contest that was stopped
    changes = [f"data.source={folder / 'pictures'}", f"minutes={minutes}", f"seed={seed}"]
    if weights is not None:
        changes += ["student.model=resnet8", f"student.weights={weights}"]
    if not mirrors(folder.name):
        changes.append("training.augment.flip=false")  # as docs/own_pictures.md tells for writing
    recipe, decisions = complete(
        read_recipe("folder", changes), "folder", "cpu", out, time.process_time
    )
    config = RunConfig(
        recipe=recipe, decisions=decisions, methods=("education",), seeds=(int(seed),)
    )
    run(config, out)
    seconds = time.process_time()
    right = [p.name == p.picture.parent.name for p in predict(out, folder / "test")]
    grades = next(d.said for d in decisions if d.key == "curriculum.grades")
    return {
        "accuracy": fmean(right), "student": recipe.student.model, "size": recipe.data.image_size,
        "grades": grades, "seconds": round(seconds, 1), "tested": len(right),
    }  # fmt: skip


def plain(
    folder: Path, model: str, size: str, seconds: str, seed: str, weights: str | None = None
) -> dict[str, Any]:
    from plain import train
    from sets import mirrors

    sets = folder / "pictures", folder / "test"
    flip = mirrors(folder.name)
    limits = int(size), float(seconds)
    return {"accuracy": train(*sets, model, *limits, int(seed), flip=flip, weights=weights)}


def write_table() -> None:
    """Into the page, between its marks."""
    rows: list[tuple[str, ...]] = [
        ("pictures", "minutes", "seeds", "student", "edufast train folder", "plain loop", "ahead")
    ]
    results = RESULTS.read()
    kinds = dict.fromkeys(_kind(r) for r in results)
    for kind in sorted(kinds, key=_order):
        of = [r for r in results if _kind(r) == kind]
        pretrained, name, minutes = kind
        students = ", ".join(dict.fromkeys(r["student"] for r in of)) + ", pretrained" * pretrained
        source, _, size = name.partition("-")
        cells = (f"{source}, {size.replace('x', ' x ')}", f"{minutes:g}", str(len(of)), students)
        scores = (spread([r[who] for r in of]) for who in ("accuracy", "plain"))
        ahead = spread([r["accuracy"] - r["plain"] for r in of], sign="+")
        rows.append((*cells, *scores, ahead))
    put_table("contest", rows)


def _kind(result: dict[str, Any]) -> tuple[bool, str, float]:
    return result["pretrained"], result["set"], result["minutes"]


def _order(kind: tuple[bool, str, float]) -> tuple[bool, int, str, float]:
    pretrained, name, minutes = kind
    return pretrained, SETS.index(name) if name in SETS else len(SETS), name, minutes


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contestant"]:
        _, _, who, folder_, *rest = sys.argv
        print(json.dumps({"ours": ours, "plain": plain}[who](Path(folder_), *rest)))
    else:
        main()
