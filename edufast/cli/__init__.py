"""The command line."""

from __future__ import annotations

from typing import Annotated

import typer

from edufast.cli import (
    about,
    bench,
    data,
    demo,
    export,
    hub,
    merge,
    pipeline,
    plan,
    predict,
    runs,
    train,
    verify,
    watch,
)
from edufast.cli.common import tolerate_any_locale, warnings_in_one_line
from edufast.cli.environment import computes
from edufast.utils.signals import signals_as_interrupt

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=about.version,
            is_eager=True,
            help="Print the versions of EduFast and torch, and how the operators were built.",
        ),
    ] = False,
) -> None:
    """Education distillation: big expert classifiers into a small edge model, fast."""
    tolerate_any_locale()
    context.with_resource(warnings_in_one_line())
    context.with_resource(signals_as_interrupt())


for command in (train.teach, train.train, train.compare, train.resume):
    app.command()(computes(command, by_ranks=True))
for alone in (
    train.sweep,
    pipeline.pipeline,
    plan.plan,
    export.export,
    hub.hub,
    merge.merge,
    data.data,
    about.recipes,
    runs.runs,
    watch.watch,
):
    app.command()(computes(alone))
app.command()(predict.predict)  # without torch
app.command()(verify.verify)  # likewise
app.command()(demo.demo)  # likewise
app.command()(about.doctor)  # tells what is wrong, too
app.add_typer(bench.bench, name="bench")
