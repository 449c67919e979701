"""What has to be settled before a test module is imported, and what tests of all folders share."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: on a busy machine, threads that spin turn seconds into minutes.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from tests.tiers import pytest_addoption, pytest_collection_modifyitems  # noqa: F401

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(2)


class UserPackage:
    """A user's package ``mypackage``, which only this test can import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **modules: str) -> Path:
        """Write the modules; returns the package's folder."""
        package = self.folder / "mypackage"
        package.mkdir(parents=True, exist_ok=True)
        for name, source in {"__init__": "", **modules}.items():
            (package / f"{name}.py").write_text(textwrap.dedent(source))
        return package

    def declare(self, group: str, distribution: str = "mypackage", **entries: str) -> None:
        """Entry points, as pip writes them for a distribution."""
        info = self.folder / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        lines = [f"[{group}]", *(f"{name} = {path}" for name, path in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def mypackage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UserPackage]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield UserPackage(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]
