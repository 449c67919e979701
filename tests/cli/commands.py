"""Commands as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from edufast.cli import app


def edufast(*arguments: Any, code: int = 0, columns: int = 80) -> Result:
    """Run a command in this process, on a terminal so wide; it has to end with ``code``."""
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def events(run: Path) -> list[dict[str, Any]]:
    """What a run logged."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    """Of a rendered table or help text, sorted; lines that frame it left out."""
    return sorted(text.translate(dict.fromkeys(map(ord, "│╭╮╰╯─━"), " ")).split())
