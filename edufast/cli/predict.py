"""The command that predicts pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edufast.cli.common import fail, show, table, user
from edufast.cli.options import path_of

if TYPE_CHECKING:
    from edufast.edge.predict import Prediction

    Predictions = dict[str, Prediction]  # of a picture, by the name of the file that says it


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            parser=path_of("model"), help="A run folder, a bundle, or an exported .onnx file."
        ),
    ],
    pictures: Annotated[
        list[Path],
        typer.Argument(
            parser=path_of("pictures"), help="Picture files, and folders of them at any depth."
        ),
    ],
    top: Annotated[
        int, typer.Option(min=1, help="Classes per picture: the most probable and runners-up.")
    ] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each picture, immediately.")
    ] = False,
) -> None:
    """Classify pictures with an exported student, without torch.

    Pictures are decoded, turned upright, cropped and resized as in validation.
    If a run folder's student has exits, every exit answers and is timed.
    """
    from edufast.data.image_files import UnreadableImage
    from edufast.edge.predict import exported_models, pictures_of, predict_each

    models = user(exported_models, model, integers=False)
    files = user(pictures_of, pictures)
    predictions = predict_each(models, files)
    try:
        if as_json:
            _print_lines(predictions, top)
        else:
            _print_table(predictions, len(files), top)
    except UnreadableImage as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped", 130)


def _print_lines(predictions: Iterable[Predictions], top: int) -> None:
    for of_files in predictions:
        first, *others = (_as_json(file, each, top) for file, each in of_files.items())
        picture = next(iter(of_files.values())).picture
        typer.echo(json.dumps({"picture": str(picture), **first, "others": others}))


def _as_json(file: str, prediction: Prediction, top: int) -> dict[str, Any]:
    first, *others = (
        {"class": name, "probability": probability} for name, probability in prediction.top(top)
    )
    took = {"file": file, "milliseconds": prediction.milliseconds, "exit": prediction.exit}
    return {**first, "runners_up": others, **took}


def _print_table(predictions: Iterable[Predictions], count: int, top: int) -> None:
    """A row for each of ``count`` pictures, or for every file's answer where there are several;
    what was predicted is shown also if something fails."""
    from edufast.data.image_files import printable
    from edufast.utils.progress import counting

    heads = ["picture", "class", "probability", "runner-up" if top == 2 else "runners-up"]
    heads = heads[: 3 if top == 1 else 4]
    rows = None
    try:
        with counting("predicting", count) as advance:
            for of_files in predictions:
                leaves = any(p.exit is not None for p in of_files.values())
                several = leaves or len(of_files) > 1
                if rows is None:
                    columns = [*heads, *["file", "time"] * several, *["exit"] * leaves]
                    rows = table(*columns, wraps=["picture", "runners-up"])
                shown = printable(next(iter(of_files.values())).picture)
                for file, prediction in of_files.items():
                    cells = [shown, *_cells(prediction, top)]
                    if several:
                        cells += [file, f"{prediction.milliseconds:.2f} ms"]
                    if leaves:
                        cells.append("" if prediction.exit is None else str(prediction.exit))
                    rows.add_row(*cells)
                    shown = ""
                advance(1)
    finally:
        if rows is not None:
            show(rows)


def _cells(prediction: Prediction, top: int) -> list[str]:
    (name, probability), *others = prediction.top(top)
    cells = [name, f"{probability:.1%}"]
    if top > 1:
        cells.append(", ".join(f"{other} {share:.1%}" for other, share in others))
    return cells
