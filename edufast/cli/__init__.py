"""The command line."""

from __future__ import annotations

import typer

from edufast.cli import about, bench, files, train

app = typer.Typer(
    help="Education distillation: big expert classifiers into a small edge model, fast.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    train.teach,
    train.train,
    train.compare,
    train.sweep,
    train.resume,
    files.export,
    files.merge,
    about.recipes,
    about.doctor,
):
    app.command()(command)
app.add_typer(bench.bench, name="bench")
