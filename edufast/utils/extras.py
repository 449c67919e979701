"""Packages that only some installations have: those of the extras in pyproject.toml."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from edufast.utils.errors import UserError

# Packages that are known by another name than the one they are imported by.
_KNOWN_AS = {
    "PIL": "Pillow",
    "nvidia": "NVIDIA DALI",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


class MissingPackageError(UserError, ImportError):
    """A package is not installed; the message names the extra that brings it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        name = _KNOWN_AS.get(package, package)
        super().__init__(f"{what} needs {name}: pip install 'edufast[{extra}]'")


@contextmanager
def needed_for(what: str, extra: str) -> Iterator[None]:
    """Around imports.

    Args:
        what: needs the packages, for the message.
        extra: brings them.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "edufast"):
            raise
        raise MissingPackageError(what, package, extra) from error


def require(what: str, extra: str, *packages: str) -> None:
    """Look for ``packages`` without loading them.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(what, package, extra)
