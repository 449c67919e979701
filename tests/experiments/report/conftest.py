"""The report of a finished run, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edufast.experiments.report import write_report
from tests.experiments.logs import complete, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write(tmp_path_factory.mktemp("report") / "run", complete())
    (run / "config.yaml").write_text("note: <img src=http://example.org/x.png>\n")
    assert write_report(run) == run / "report.html"
    return run
