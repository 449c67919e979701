"""The command that looks at a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edufast.cli.common import fail, say, show, table
from edufast.cli.options import JsonOption, path_of, text_of

if TYPE_CHECKING:
    from edufast.data.survey import Sizes, Survey

_CLASSES = 20  # most that are listed
_GROUPS = 10  # most groups of duplicates that are listed


def data(
    source: Annotated[
        str,
        typer.Argument(
            parser=text_of("source"),
            help="A folder of pictures, a .csv table, Parquet files, a data set saved by Hugging "
            "Face's datasets, tar shards, or anything else that data.source of a recipe takes.",
        ),
    ],
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--contact-sheet"),
            help="Also write some pictures of each class into this .png file.",
        ),
    ] = None,
    fix_list: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--fix-list"),
            help="Also write which files to leave out, and why, into this .csv file: corrupt "
            "files, duplicates, and images in several classes. To apply it to a run: --set "
            "data.leave_out=FILE.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a data set as a run would see it, before anything is trained.

    Shows its layout, classes, image sizes, what is left out, corrupt files and
    duplicate images.
    """
    from edufast.data.contact_sheet import check_path, write_contact_sheet
    from edufast.data.leave_out import faults, write_list
    from edufast.data.survey import survey

    if contact_sheet is not None:
        check_path(contact_sheet)
    try:
        found = survey(source)
        if contact_sheet is not None:
            unreadable = set(found.unreadable)
            write_contact_sheet(contact_sheet, found.train, found.classes, unreadable)
        if fix_list is not None:
            bad = faults(found.unreadable, found.duplicates)
            write_list(fix_list, bad)
    except KeyboardInterrupt:
        fail("stopped", 130)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _print(found)
    if contact_sheet is not None:
        say(f"contact sheet: {contact_sheet}")
    if fix_list is not None:
        say(f"{_number(len(bad), 'file')} to leave out: {fix_list}")


def _print(found: Survey) -> None:
    from edufast.data.folder import counted
    from edufast.data.image_files import printable

    source = printable(found.source)
    counts = {name: train for name, (train, _) in found.counts.items()}
    overview = table("data", source, wraps=[source])
    overview.add_row("layout", found.layout)
    overview.add_row(
        "images", f"{len(found.train):,} for training, {len(found.val):,} for validation"
    )
    overview.add_row("classes", str(len(counts)))
    overview.add_row("fewest", _those_with(min(counts.values()), counts))
    overview.add_row("most", _those_with(max(counts.values()), counts))
    overview.add_row("imbalance", f"{found.imbalance:.1f} to 1, most to fewest")
    overview.add_row("sizes", "unknown" if found.sizes is None else _sizes(found.sizes))
    overview.add_row("train folder sees", _seen(found.decided_sizes))
    overview.add_row("other recipes see", f"{_seen([found.image_size])}, unless they say otherwise")
    overview.add_row("left out", counted(found.left_out) or "nothing")
    overview.add_row(
        "corrupt", _number(len(found.unreadable), "file") if found.unreadable else "none"
    )
    overview.add_row("duplicates", _duplicates(found))
    show(overview)
    typer.echo()
    show(_classes(found))
    for path in found.unreadable:
        typer.echo(f"corrupt: {printable(path)}")
    for group in found.duplicates[:_GROUPS]:
        typer.echo(f"the same: {', '.join(f'{p.split} {printable(p.image)}' for p in group)}")
    if len(found.duplicates) > _GROUPS:
        typer.echo(f"and {len(found.duplicates) - _GROUPS} more groups; --json lists them all")


def _those_with(count: int, counts: dict[str, int]) -> str:
    names = [name for name, other in counts.items() if other == count]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{_number(count, 'training image')}: {', '.join(names[:3])}{more}"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _sizes(sizes: Sizes) -> str:
    smallest, median, largest = (f"{w} x {h}" for w, h in sizes[:3])
    if smallest == largest:
        return f"{smallest} pixels"
    return (
        f"smallest {smallest}, median {median}, largest {largest} pixels, of "
        f"{_number(sizes.images, 'image')}"
    )


def _seen(sizes: list[int]) -> str:
    most = f"{sizes[-1]} x {sizes[-1]} pixels"
    return most if len(sizes) == 1 else f"{sizes[0]} x {sizes[0]} to {most}, as time allows"


def _duplicates(found: Survey) -> str:
    if not found.duplicates:
        return "none"
    copies = found.copies
    return (
        f"{copies['train']} within train, {copies['val']} within val, {found.leaked} of val also "
        f"in train; {_number(found.contradictions, 'image')} in several classes"
    )


def _classes(found: Survey) -> Table:
    """Training and validation images of each class, the largest first; of many, both ends."""
    ordered = sorted(found.counts.items(), key=lambda item: -item[1][0])
    rows: list[tuple[str, ...]] = [(name, str(t), str(v)) for name, (t, v) in ordered]
    if len(ordered) > _CLASSES:
        half = _CLASSES // 2
        rows = [*rows[:half], ("…", "…", "…"), *rows[-half:]]
    listed = table("class", "training", "validation", wraps=["class"])
    for row in rows:
        listed.add_row(*row)
    return listed
