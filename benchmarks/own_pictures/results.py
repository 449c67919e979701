"""What the scripts in this folder found: kept beside them, and told in docs/own_pictures.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "own_pictures.md"


@dataclass(frozen=True)
class Results:
    """A JSON file with a list of them, which a script that was stopped goes on with."""

    path: Path

    def read(self) -> list[dict[str, Any]]:
        """All so far."""
        found: list[dict[str, Any]] = (
            json.loads(self.path.read_text()) if self.path.exists() else []
        )
        return found

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is one with these values."""
        return any(key.items() <= result.items() for result in self.read())

    def add(self, result: dict[str, Any]) -> None:
        """Keep ``result``, and print it."""
        _write(self.path, json.dumps([*self.read(), result], indent=1) + "\n")
        print(json.dumps(result), flush=True)


def put_table(name: str, rows: Sequence[Sequence[str]]) -> None:
    """Put ``rows``, the first of which are the heads, into the page, between the marks of ``name``
    and end."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    text, pattern = PAGE.read_text("utf-8"), rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    _write(PAGE, re.sub(pattern, rf"\1{chr(10).join(lines)}\n\2", text, flags=re.DOTALL))


def spread(shares: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation, in percent."""
    text = f"{100 * fmean(shares):{sign}.1f}"
    return text + (f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else "")


def _write(path: Path, text: str) -> None:
    from edufast.utils.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(text, "utf-8")
