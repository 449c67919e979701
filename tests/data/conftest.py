"""What tests of data share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of EduFast, empty."""
    monkeypatch.setenv("EDUFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
