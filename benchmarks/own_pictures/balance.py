"""What showing rare classes more often is worth: the same run with several training.balance.

    python benchmarks/own_pictures/balance.py PHOTOGRAPHS [--minutes 1] [--seeds 4] [SET...]

All runs of a draw have the decisions of edufast train folder, made once. Minutes are of the
processor, as in contest.py. Results are added to balance.json, and to the table in
docs/own_pictures.md; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from results import HERE, ROOT, Results, put_table, spread
from sets import class_sizes, write_set

RESULTS = Results(HERE / "balance.json")
# The default is chosen on the first, whose pictures are in none of the others.
SETS = "cifar100-12x10to80", "caltech101-12x8to60", "food101-12x10to80"
BALANCES = 0.0, 0.5, 1.0
MEASURES = {"frequent": "as frequent as in the folder", "balanced": "as many of each class"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("photographs", type=Path)
    options.add_argument("sets", nargs="*", default=SETS)
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--seeds", type=int, default=4)
    options.add_argument("--work", type=Path, default=ROOT / "data" / "own_pictures")
    asked = options.parse_args()
    for seed in range(asked.seeds):
        for name in asked.sets:
            key = {"set": name, "seed": seed, "minutes": asked.minutes}
            if not RESULTS.has(key):
                folder = asked.work / f"{name}-{seed}"
                write_set(name, asked.photographs, folder, seed)
                RESULTS.add({**key, **_compare(folder, asked.minutes, seed)})
            write_table()


def _compare(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Accuracy by training.balance: of pictures as frequent as those in the folder, and of equally
    many of each class."""
    from edufast.experiments.open_recipe import complete
    from edufast.experiments.recipe import read_recipe
    from edufast.experiments.run import run
    from edufast.experiments.run_folder import RunConfig

    source = f"data.source={folder / 'pictures'}"
    content = read_recipe("folder", [source, f"minutes={minutes}", f"seed={seed}"])
    recipe, _ = complete(content, "folder", "cpu", folder / "undecided", time.process_time)
    found: dict[str, Any] = {"student": recipe.student.model, "frequent": {}, "balanced": {}}
    for balance in BALANCES:
        training = recipe.training.model_copy(update={"balance": balance})
        changed = recipe.model_copy(update={"training": training})
        out = folder / f"balance-{balance}"
        shutil.rmtree(out, ignore_errors=True)  # of a comparison that was stopped
        run(RunConfig(recipe=changed, methods=("education",), seeds=(seed,)), out)
        frequent, balanced = _accuracies(out, folder)
        found["frequent"][str(balance)], found["balanced"][str(balance)] = frequent, balanced
    return found


def _accuracies(out: Path, folder: Path) -> tuple[float, float]:
    from edufast.edge.predict import predict

    right = defaultdict(list)
    for prediction in predict(out, folder / "test"):
        name = prediction.picture.parent.name
        right[name].append(prediction.name == name)
    of_class = {name: fmean(answers) for name, answers in right.items()}
    counts = {name: len(list((folder / "pictures" / name).iterdir())) for name in of_class}
    frequent = sum(counts[name] * share for name, share in of_class.items()) / sum(counts.values())
    return frequent, fmean(of_class.values())


def write_table() -> None:
    """Into the page, between its marks."""
    heads = [f"balance {balance:g}" for balance in BALANCES]
    rows = [("pictures", "seeds", "accuracy where test pictures are", *heads)]
    results = RESULTS.read()
    for name in sorted({r["set"] for r in results}, key=SETS.index):
        of = [r for r in results if r["set"] == name]
        source, _, size = name.partition("-")
        counts = class_sizes(size)
        told = f"{source}, {len(counts)} classes of {min(counts)} to {max(counts)}"
        for measure, said in MEASURES.items():
            scores = [spread([r[measure][str(balance)] for r in of]) for balance in BALANCES]
            gains = [
                spread([r[measure][str(b)] - r[measure]["0.0"] for r in of], "+")
                for b in BALANCES[1:]
            ]
            cells = [scores[0], *(f"{s} ({g})" for s, g in zip(scores[1:], gains, strict=True))]
            rows.append((told, str(len(of)), said, *cells))
    put_table("balance", rows)


if __name__ == "__main__":
    main()
