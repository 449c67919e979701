"""The documentation as a site."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def listed(entry: object) -> set[str]:
    """The pages below an entry of the navigation."""
    if isinstance(entry, str):
        return {entry}
    parts = entry.values() if isinstance(entry, dict) else entry
    return set().union(*(listed(part) for part in parts))


def test_the_navigation_leads_to_every_page() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert listed(SITE["nav"]) == pages | {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}


def test_the_reference_has_every_public_name() -> None:
    import edufast

    names = re.findall(
        r"^::: (\S+)\.(\w+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE
    )
    shown = [getattr(importlib.import_module(module), name) for module, name in names]
    public = [getattr(edufast, name) for name in edufast.__all__ if name != "ops"]
    operators = [getattr(edufast.ops, n) for n in edufast.ops.__all__ if not n.isupper()]
    left_out = {edufast.ops.select_backend, edufast.ops.ClassSlices}
    assert {x for x in [*public, *operators] if not isinstance(x, type(sys))} - left_out <= {*shown}
    assert all(each.__doc__ for each in shown)


@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocs"), reason="needs the packages of make docs"
)
def test_it_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "edufast").symlink_to(ROOT / "edufast")
    pages = re.search(r"^PAGES := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for name in pages:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / "build/pages").mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / "build/pages" / name)
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "build/site").rglob("*.html"):
        tags = re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\" >]+)", path.read_text()
        )
        assert [url for url in tags if not url.startswith("https://arxiv.org")] == []
    index = (tmp_path / "build/site/search/search_index.json").read_text()
    assert "min_norm_weights" in index and "Caltech-101" in index
