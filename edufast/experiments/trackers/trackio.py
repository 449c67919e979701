"""trackio: ``trackio show`` opens its local page."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


class Trackio:
    """One run of trackio, in the project "edufast"."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import trackio

        # Runs are told apart by their names.
        name = f"{folder.name}-{identity[:6]}"
        with redirect_stdout(sys.stderr):  # it talks, and standard output is for --json
            self._run = trackio.init("edufast", name=name, resume="allow", config=dict(config))

    def log(self, values: Mapping[str, float], samples: int) -> None:
        self._run.log(dict(values), step=samples)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()
