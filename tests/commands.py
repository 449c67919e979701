"""Commands as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import CliRunner, Result

from edufast.cli import app
from edufast.data import DataSet


def edufast(*arguments: object, code: int = 0, columns: int = 80) -> Result:
    """Run a command in this process, on a terminal so wide; it has to end with ``code``."""
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def interrupted_import(*_: object) -> None:
    """What a Ctrl-C becomes while a package that is compiled with pybind11 is imported."""
    raise ImportError("initialization failed") from KeyboardInterrupt()


def one_line(result: Result) -> str:
    """What a command printed for people, however it was wrapped."""
    return " ".join(result.stderr.split())


def events(run: Path) -> list[dict[str, Any]]:
    """What a run logged."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    """Of a rendered table or help text, sorted; lines that frame it left out."""
    return sorted(text.translate(dict.fromkeys(map(ord, "│╭╮╰╯─━"), " ")).split())


def write_pictures(data: DataSet, folder: Path) -> None:
    """``data`` as class folders of pictures."""
    for split, samples in (("train", data.train), ("val", data.val)):
        for number, (image, label) in enumerate(zip(samples.images, samples.labels, strict=True)):
            path = folder / split / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
