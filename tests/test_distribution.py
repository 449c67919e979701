"""What is distributed: the source archive is whole, and wheels are made for the Pythons we name."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edufast
from tests.utils.test_extras import requirements

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()


def test_the_source_archive_has_every_file_that_a_build_reads(tmp_path: Path) -> None:
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=True)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for folder in ("edufast", "kernels", "csrc", "cmake"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        needed = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
        assert needed and needed <= names
    assert {"CMakeLists.txt", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.startswith(("tests/", "runs/", "build/"))]


def test_wheels_are_made_for_the_versions_of_python_that_are_named() -> None:
    named = re.findall(r"Python :: (3\.\d+)", PROJECT)
    assert re.search(r'requires-python = "(.*)"', PROJECT)[1] == f">={named[0]}"
    minors = re.search(r'build = "cp3\{([\d,]+)\}', PROJECT)[1].split(",")
    assert [f"3.{minor}" for minor in minors] == named


def test_the_version_is_that_of_the_changelog_and_the_package() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    latest, date = re.search(r"^## (\S+) \((.*)\)$", changes, re.MULTILINE).groups()
    assert f'version = "{latest}"' in PROJECT and latest == edufast.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", date)
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {latest}\n" in citation
    assert date == "unreleased" or f"\ndate-released: {date}\n" in citation


def test_every_room_has_an_owner() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text().splitlines()
    owned = {line.split()[0].strip("/") for line in lines if not line.startswith(("#", "*"))}
    rooms = {f"edufast/{path.parent.name}" for path in (ROOT / "edufast").glob("*/__init__.py")}
    assert owned == rooms | {"csrc", "kernels", "cmake"}


def test_the_checks_on_github_are_those_of_the_project() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"- run: (.*)", workflow) == [".ci/run"]


# Of licences that let everybody use, change and sell; MPL: as long as its own files stay open.
PERMISSIVE = re.compile(
    r"\b(apache|bsd|mit|isc|psf|python software|hpnd|mit-cmu|mpl-2\.0|wtfpl)\b", re.I
)
# Whose metadata do not say it: BSD, in its LICENSE.
UNSAID = {"torchao"}
# Parts of CUDA and of its image libraries, which torch and DALI bring, have NVIDIA's own.
NVIDIAS = re.compile(r"nvidia-.*|cuda-toolkit")


def brought(package: str, extra: str | None, found: set[str]) -> set[str]:
    """Distributions that installing ``package`` brings, and what they bring."""
    for text in metadata.requires(package) or ():
        requirement = Requirement(text)
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        if marker is None or marker.evaluate({"extra": extra or ""}):
            for wanted in requirement.extras or [None]:
                if (name, wanted) not in found:
                    found.add((name, wanted))
                    brought(name, wanted, found)
    return {name for name, _ in found} - {"edufast"}


EXTRAS = (None, "arrow", "cli", "executorch", "export", "hf", "timm", "train")


@pytest.mark.parametrize("extra", EXTRAS)
def test_everything_that_is_brought_has_a_permissive_licence(extra: str | None) -> None:
    wanted = brought("edufast", extra, set())
    assert {"torch", "numpy"} <= wanted and requirements("edufast", extra) <= wanted
    for name in wanted:
        said = metadata.metadata(name)
        licences = said.get_all("Classifier") or []
        licences = [line for line in licences if line.startswith("License")]
        text = " ".join([said["License-Expression"] or "", said["License"] or "", *licences])
        assert PERMISSIVE.search(text) or name in UNSAID or NVIDIAS.fullmatch(name), (
            name,
            text[:200],
        )


def test_the_lowest_versions_are_those_of_the_project() -> None:
    command = [sys.executable, ROOT / "tools/lowest.py", "train", "cli", "export", "timm"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pinned = dict(line.split("==") for line in done.stdout.split())
    named = {requirement.partition(">=")[0]: requirement for requirement in _ranged(PROJECT)}
    for name in ("torch", "numpy", "pydantic", "torchvision", "onnx", "timm"):
        assert named[name] == f"{name}>={pinned[name].removesuffix('.*')}"
    assert pinned["safetensors"] == "0.4.5" and pinned["rich"] == "13.0.*"
    assert "edufast" not in pinned and "mypy" not in pinned


def _ranged(text: str) -> list[str]:
    return re.findall(r'"([\w-]+>=[\d.]+)', text[text.index("\ndependencies") :])
