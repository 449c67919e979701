"""The command that proposes a student for a device, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from edufast.cli.common import fail, say, show, table, user
from edufast.cli.options import JsonOption, ToOption, text_of
from edufast.utils.numbers import MOST_CLASSES
from edufast.utils.units import parse_bytes, parse_milliseconds

if TYPE_CHECKING:
    from edufast.edge.fitting import Candidate

T = TypeVar("T")


def plan(
    flash: Annotated[
        str | None,
        typer.Option(parser=text_of("--flash"), help="Bytes for weights, such as 256k (x 1024)."),
    ] = None,
    ram: Annotated[
        str | None,
        typer.Option(parser=text_of("--ram"), help="Bytes for activations, such as 128k."),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--latency"),
            help="Time for one image on one thread of this machine, such as 5ms.",
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=2, max=MOST_CLASSES, help="Number of classes.")] = 10,
    image_size: Annotated[
        int, typer.Option(min=8, max=4096, help="Height and width in pixels.")
    ] = 32,
    models: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--models"),
            help="Students, comma-separated (default: five small ones).",
        ),
    ] = None,
    to: ToOption = "onnx,onnx-int8",
    as_json: JsonOption = False,
) -> None:
    """List the students, and their exits, that fit a device.

    Flash and RAM are calculated from the layers; latency is measured here, with
    random weights, for those that fit. The largest that fits is proposed; exit
    code 1 if none does.
    """
    from edufast.edge.fitting import GRADES, STUDENTS, Budget, candidates, propose
    from edufast.edge.parity import ExportError
    from edufast.utils.progress import counting

    names = list(STUDENTS) if models is None else models.split(",")
    formats = to.split(",")
    budget = Budget(
        _parsed(parse_bytes, "--flash", flash),
        _parsed(parse_bytes, "--ram", ram),
        _parsed(parse_milliseconds, "--latency", latency),
    )
    found: list[Candidate] = []
    with counting("measuring", len(names) * len(formats) * GRADES) as advance:
        going = candidates(names, classes, image_size, formats, budget)
        try:
            while (each := user(next, going, None)) is not None:
                found.append(each)
                advance(1)
        except ExportError as error:
            fail(str(error), 1)
    if as_json:
        for each in found:
            print(json.dumps({"event": "candidate", **asdict(each)}))
    else:
        _print_table(found)
    chosen = propose(found)
    if chosen is None:
        fail("nothing fits; expected a larger budget, or smaller --models or images", 1)
    part = (
        "whole" if chosen.exit == GRADES else f"ended at exit {chosen.exit} of {GRADES} fragments"
    )
    say(
        f"proposed: {chosen.model}, {part}, as {chosen.format} (--set student.model={chosen.model})"
    )


def _parsed(parse: Callable[[str], T], option: str, text: str | None) -> T | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        fail(f"{option} is {text!r}; {error}", 2)


def _print_table(found: list[Candidate]) -> None:
    numbers = "MFLOP", "flash", "RAM", "an image", "fits"
    rows = table("student", "exit", "format", *numbers, wraps=["student"])
    for each in found:
        latency = "" if each.latency_ms is None else f"{each.latency_ms:.2f} ms"
        rows.add_row(
            each.model,
            str(each.exit),
            each.format,
            f"{each.flops / 1e6:.1f}",
            f"{each.flash / 1024:,.0f} k",
            f"{each.ram / 1024:,.0f} k",
            latency,
            "yes" if each.fits else "no",
        )
    show(rows)
