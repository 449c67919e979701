"""The trainings of a run and how long each of them takes, planned when it begins or goes on."""

from __future__ import annotations

import torch

from edufast.experiments.cost import Cost, expected_cost
from edufast.experiments.pace import Duration, Pace, expected_duration
from edufast.experiments.remaining import Part, Remaining
from edufast.experiments.report.format import seconds
from edufast.experiments.run_setup import Setup

_LONG = 2e12  # FLOPs: half a minute of a slow machine


def planned(setup: Setup) -> Remaining | None:
    """What is left to train. A run that begins says how long that takes, unless that is soon seen.

    None: nothing, or it takes less than a minute, or education is not among the methods. Of small
    pictures a minute holds little arithmetic: where the recipe names its minutes, those count.
    """
    config, log = setup.config, setup.folder.log()
    if "education" not in config.methods:
        return None
    untaught = [k for k in setup.asked if not setup.teacher_file(k).exists()]
    cost = expected_cost(setup.recipe, setup.data, untaught)
    if cost is None or (cost.flops < _LONG and (setup.recipe.minutes or 0) < 1):
        return None
    if not any(cost.teaching_flops) and len(log.results) == len(config.methods) * len(config.seeds):
        return None
    data, augment = setup.data, setup.recipe.create_training().augment
    pace = Pace(config.device, setup.recipe.training)
    loading = pace.loading(data.train, data.image_size, augment)
    one = expected_duration(setup.recipe, cost, data.image_size, pace, loading)
    if not (log.teachers or log.methods):
        teaching, total = sum(one.teaching), one.total + one.learning * (len(config.seeds) - 1)
        of_teachers = f", {seconds(teaching)} of it for teachers" if teaching else ""
        more = "baselines and validation" if config.methods[1:] else "validation"
        setup.console.print(
            f"this takes about {seconds(total)} on this machine{of_teachers}, not counting {more}"
        )
    return Remaining(_parts(setup, cost, one), setup.event_log)


def _parts(setup: Setup, cost: Cost, one: Duration) -> list[Part]:
    """In order: teachers that are not taught yet, then every method with every seed."""
    parts = [
        Part(f"teacher {k}", setup.recipe.seed, flops, one.teaching[k])
        for k, flops in enumerate(cost.teaching_flops)
        if flops
    ]
    finished = setup.folder.log().results
    for name in setup.config.methods:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            flops = setup.methods[name].training_flops()
        parts += [
            Part(name, seed, flops, one.learning * flops / cost.student_flops)
            for seed in setup.config.seeds
            if (name, seed) not in finished
        ]
    return parts
