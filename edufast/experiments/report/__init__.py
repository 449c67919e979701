"""The report of a run: one self-contained page, and its plots as pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edufast.experiments.answers import Answers
from edufast.experiments.run_folder import RunFolder
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.files import atomic_write

if TYPE_CHECKING:
    from edufast.experiments.report.summary import SweepSummary
    from edufast.experiments.sweep_config import SweepConfig


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and ``plots/*.png`` of a run from what it logged so far.

    Works on one run or a comparison, finished or not: what metrics.jsonl does not hold is left
    out, and the page says which parts are unfinished.

    Args:
        folder: holds metrics.jsonl and, optionally, config.yaml.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: there is no metrics.jsonl, a line of it is malformed, or matplotlib is missing.
    """
    run = RunFolder(folder)
    if not run.metrics.is_file():
        raise UserError(f"{folder} is not a run folder: it has no {run.metrics.name}")
    log = run.log()
    with needed_for("a report", "train"):
        from edufast.experiments.report.page import render
        from edufast.experiments.report.plots import plots
        from edufast.experiments.report.style import DARK, LIGHT, png

    pictures = []
    for plot in plots(log):
        light, dark = png(plot.draw(LIGHT)), png(plot.draw(DARK))
        with atomic_write(folder / "plots" / f"{plot.name}.png") as temporary:
            temporary.write_bytes(light)
        pictures.append((plot, light, dark))
    config = run.config_file.read_text("utf-8") if run.config_file.is_file() else None
    answers = Answers.load(run.answers)
    name = folder.absolute().name if log.run is None else log.run.name
    page = folder / "report.html"
    with atomic_write(page) as temporary:
        temporary.write_text(render(name, log, answers, config, pictures), "utf-8")
    return page


def write_summary(
    folder: Path,
    config: SweepConfig,
    runs: Mapping[str, Mapping[int, Path]],
    teachers: Sequence[Path],
) -> SweepSummary:
    """Write the summary of a sweep, finished or not.

    Args:
        folder: gets sweep.json, sweep.md and metrics.jsonl of all runs together.
        config: of the sweep.
        runs: run folders by variant and seed.
        teachers: event logs of the teachers.

    Raises:
        UserError: an event log is malformed, or matplotlib is missing.
    """
    with needed_for("a report", "train"):
        from edufast.experiments.report import sweep
        from edufast.experiments.report.summary import merged_events, summarise

    merged = RunFolder(folder)
    with atomic_write(merged.metrics) as temporary:
        events = merged_events(config, runs, teachers)
        temporary.write_text("".join(json.dumps(e.to_dict()) + "\n" for e in events), "utf-8")
    summary = summarise(config, runs, merged.log())
    texts = {"sweep.json": sweep.to_json(summary), "sweep.md": sweep.markdown(summary)}
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    return summary


def write_figures(folder: Path, summary: SweepSummary) -> None:
    """Write the figures and the report of a sweep, which takes some seconds.

    Args:
        folder: has the summary; gets sweep.png and .svg (accuracy by variant), sweep-flops.png and
            .svg (accuracy against student FLOPs), report.html and plots/.
        summary: of the sweep.

    Raises:
        UserError: an event log is malformed, or matplotlib is missing.
    """
    with needed_for("a report", "train"):
        from edufast.experiments.report import sweep
        from edufast.experiments.report.curves import flops
        from edufast.experiments.report.style import LIGHT, png, svg

    if summary.finished:
        log = RunFolder(folder).log()
        figures = {"sweep": sweep.draw(summary, LIGHT), "sweep-flops": flops(log, LIGHT)}
        for name, drawn in figures.items():
            for suffix, write in ((".png", png), (".svg", svg)):
                with atomic_write(folder / f"{name}{suffix}") as temporary:
                    temporary.write_bytes(write(drawn))
    write_report(folder)
