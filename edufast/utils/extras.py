"""Packages that only some installations have: those of the extras in pyproject.toml."""

from __future__ import annotations

import importlib.util
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import chain

from edufast.utils.errors import UserError

# Packages that are known by another name than the one they are imported by.
_KNOWN_AS = {
    "PIL": "Pillow",
    "nvidia": "NVIDIA DALI",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


class MissingPackageError(UserError, ImportError):
    """Packages are not installed; the message names the extras that contain them."""

    def __init__(self, what: str, packages: Iterable[str], extras: Iterable[str]) -> None:
        names = ", ".join(_KNOWN_AS.get(package, package) for package in packages)
        super().__init__(f"{what} needs {names}: pip install 'edufast[{','.join(extras)}]'")


@contextmanager
def needed_for(what: str, extra: str) -> Iterator[None]:
    """Around imports.

    Args:
        what: needs the packages, for the message.
        extra: brings them.

    Raises:
        MissingPackageError: one of them is not installed.
        UserError: a module that no extra brings is missing, which code of somebody else imports.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "edufast"):
            raise
        extras = _extras_with(package)
        if not extras:
            raise UserError(f"{what} needs the module {error.name!r}{_place(error)}") from error
        brings = extra if extra in extras else extras[0]
        raise MissingPackageError(what, [package], [brings]) from error


def _extras_with(package: str) -> list[str]:
    """The extras that bring ``package``, which is named as it is imported."""
    name = _KNOWN_AS.get(package, package).lower().replace(" ", "-").replace("_", "-")
    brings: dict[str, set[str]] = {}
    for line in metadata.requires("edufast") or ():
        found = re.match(r"([\w.-]+)(?:\[(\w+)\])?.*extra == ['\"](\w+)['\"]", line)
        if found:
            brings.setdefault(found[3], set()).add(found[2] or found[1].lower())
    extras = [e for e, names in brings.items() if any(_is(name, each) for each in names)]
    return extras + [e for e, names in brings.items() if names & {*extras} and e not in extras]


def _is(name: str, distribution: str) -> bool:
    """Whether a distribution is the package: those of DALI name the version of CUDA, too."""
    return distribution == name or distribution.startswith(f"{name}-cuda")


def _place(error: ModuleNotFoundError) -> str:
    """Whose import failed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    return f", which {frames[-1].filename}, line {frames[-1].lineno}, imports" if frames else ""


def require(what: str, extra: str, *packages: str) -> None:
    """Look for ``packages`` without loading them.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(what, [package], [extra])


def require_all(what: str, packages: Mapping[str, Sequence[str]]) -> None:
    """Look for ``packages``, by the extra that brings them, without loading them.

    Raises:
        MissingPackageError: some are not installed; the message names all of these.
    """
    missing = {
        extra: [package for package in of if importlib.util.find_spec(package) is None]
        for extra, of in packages.items()
    }
    extras = [extra for extra, of in missing.items() if of]
    if extras:
        raise MissingPackageError(what, chain(*missing.values()), extras)
