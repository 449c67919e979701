"""The report of a run: one self-contained page, and its plots as pictures beside it."""

from __future__ import annotations

from pathlib import Path

from edufast.errors import UserError
from edufast.files import atomic_write
from edufast.report.events import RunLog, read_run

__all__ = ["RunLog", "read_run", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` and ``plots/*.png`` of a run from what it logged so far.

    Works on one run or a comparison, finished or not: what metrics.jsonl does not hold is left
    out, and the page says which parts are unfinished.

    Args:
        run_dir: holds metrics.jsonl and, optionally, config.yaml.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: there is no metrics.jsonl, a line of it is malformed, or matplotlib is missing.
    """
    run_dir = Path(run_dir)
    log = read_run(run_dir)
    try:
        from edufast.report.page import render
        from edufast.report.plots import plots
        from edufast.report.style import DARK, LIGHT, png
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "matplotlib":
            raise
        raise UserError("matplotlib is needed for reports: pip install 'edufast[train]'") from error

    pictures = []
    for plot in plots(log):
        light, dark = png(plot.draw(LIGHT)), png(plot.draw(DARK))
        with atomic_write(run_dir / "plots" / f"{plot.name}.png") as temporary:
            temporary.write_bytes(light)
        pictures.append((plot, light, dark))
    page = run_dir / "report.html"
    with atomic_write(page) as temporary:
        temporary.write_text(render(log, pictures), "utf-8")
    return page
