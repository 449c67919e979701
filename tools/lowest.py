"""The lowest versions that pyproject.toml allows, as requirements: what `make lowest` installs."""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement


def lowest(text: str) -> str:
    """``numpy>=1.26`` as ``numpy==1.26.*``: of a release the newest repair; "" without a bound."""
    requirement = Requirement(text)
    bounds = [s.version for s in requirement.specifier if s.operator == ">="]
    if not bounds:
        return ""
    version = bounds[0] if "." in bounds[0] else f"{bounds[0]}.0"
    exact = version.count(".") > 1
    return f"{requirement.name}=={version}" + ("" if exact else ".*")


def main(*extras: str) -> None:
    """Print those of the package itself, and of ``extras``."""
    for text in metadata.requires("edufast") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = not marker or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and requirement.name != "edufast":
            print(lowest(text) or requirement.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
