"""An imaginary sweep: three variants with two seeds, one of which diverged and one never began."""

from __future__ import annotations

from pathlib import Path

from edufast.experiments.recipe import parse_recipe
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.sweep_config import SweepConfig
from tests.experiments.logs import LEARNING, RUN, TEACHER, result, trial, write

CONFIG = SweepConfig(
    seeds=2,
    teacher_seeds=2,
    equal="flops",
    recipe=parse_recipe(
        {
            "name": "tiny",
            "data": {"source": "digits"},
            "student": {"model": "resnet8"},
            "curriculum": {"grades": [{"epochs": 1, "classes": "0-9"}]},
            "variants": {
                "graded": {"curriculum.exit_weight": 0.3},
                "plain": {"method": "scratch", "training.lr": 0.2},
                "wild": {"method": "kd"},
            },
        }
    ),
)

Runs = dict[str, dict[int, Path]]


def write_runs(folder: Path) -> tuple[Runs, list[Path]]:
    """The run folders by variant and seed, and the event logs of the teachers."""
    folder.mkdir(exist_ok=True)
    runs: Runs = {
        name: {seed: folder / f"{name}-{seed}" for seed in (0, 1)}
        for name in CONFIG.recipe.variants
    }
    for method, name, flops in (("education", "graded", 6e12), ("scratch", "plain", 1.2e13)):
        for seed in (0, 1):
            accuracy = 0.95 - 0.02 * seed
            events = [*trial(method, seed, LEARNING), result(method, seed, accuracy, flops)]
            compiled = {"event": "compile", "method": method, "seed": seed, "grade": 1, "epoch": 0,
                        "compiled": False, "reason": "as asked"}  # fmt: skip
            about = RUN | {"grades": RUN["grades"][:seed]} if name == "plain" else RUN
            write(runs[name][seed], [about, compiled, *events])
    write(runs["wild"][0], [RUN, *trial("kd", 0, LEARNING[:1])])
    RunFolder(runs["wild"][0]).diverged.write_text("the loss is nan\n")
    teachers = [write(folder / f"t{k}", [TEACHER]) / "metrics.jsonl" for k in (0, 1)]
    return runs, [*teachers, folder / "not trained yet"]
