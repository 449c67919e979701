"""The command that predicts pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edufast.cli.common import fail, show, table, user
from edufast.cli.options import path_of

if TYPE_CHECKING:
    from edufast.edge.predict import Prediction


def predict(
    model: Annotated[
        Path,
        typer.Argument(parser=path_of("model"), help="A run folder, or an exported .onnx file."),
    ],
    pictures: Annotated[
        list[Path],
        typer.Argument(
            parser=path_of("pictures"), help="Picture files, and folders of them at any depth."
        ),
    ],
    top: Annotated[
        int, typer.Option(min=1, help="Classes a picture: the most probable, and runners-up.")
    ] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each picture, as it is done.")
    ] = False,
) -> None:
    """Tell which class pictures show, by an exported student, without torch.

    They are decoded, turned upright, cropped and resized as in validation.
    """
    from edufast.data.image_files import UnreadableImage
    from edufast.edge.predict import ExportedModel, pictures_of

    exported = user(ExportedModel, model)
    files = user(pictures_of, pictures)
    predictions = exported.predict(files)
    try:
        if as_json:
            _print_lines(predictions, top)
        else:
            _print_table(predictions, len(files), top)
    except UnreadableImage as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped", 130)


def _print_lines(predictions: Iterable[Prediction], top: int) -> None:
    for prediction in predictions:
        first, *others = (
            {"class": name, "probability": probability} for name, probability in prediction.top(top)
        )
        line = {"picture": str(prediction.picture), **first, "runners_up": others}
        typer.echo(json.dumps(line))


def _print_table(predictions: Iterable[Prediction], count: int, top: int) -> None:
    """A row for each of ``count`` pictures; what was predicted is shown also if something fails."""
    from edufast.data.image_files import printable
    from edufast.utils.progress import counting

    heads = ["picture", "class", "probability", "runner-up" if top == 2 else "runners-up"]
    rows = table(*heads[: 3 if top == 1 else 4], wraps=["picture", "runners-up"])
    try:
        with counting("predicting", count) as advance:
            for prediction in predictions:
                (name, probability), *others = prediction.top(top)
                cells = [printable(prediction.picture), name, f"{probability:.1%}"]
                if top > 1:
                    cells.append(", ".join(f"{other} {share:.1%}" for other, share in others))
                rows.add_row(*cells)
                advance(1)
    finally:
        if rows.row_count:
            show(rows)
