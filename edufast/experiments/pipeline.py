"""From a finished run to a bundle that was replayed, doing only what is not done yet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from edufast.edge.bundle import write_bundle
from edufast.edge.contract import CONTRACT, SUFFIX, Contract, file_hash
from edufast.edge.exit_choice import Target
from edufast.edge.registry import find_format
from edufast.edge.replay import Replay, replay
from edufast.experiments import RUN_FILE
from edufast.experiments.exporting import read_exportable, record_exports
from edufast.experiments.run_folder import RunFolder
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write
from edufast.utils.json_text import parse_json
from edufast.utils.lock import folder_lock

STAGES = "pipeline.json"  # in the run's folder: what its bundle was made of
BUNDLE = f"student{SUFFIX}"


@dataclass(frozen=True)
class Gates:
    """What a bundle is to have, and may lose.

    Attributes:
        formats: names, see :data:`edufast.edge.registry.FORMATS`.
        max_drop: points of accuracy that a file of integers may lose.
        early: what early exits may cost; None: none are wanted.
    """

    formats: tuple[str, ...]
    max_drop: float
    early: Target | None


@dataclass(frozen=True)
class Delivered:
    """A bundle.

    Attributes:
        path: the folder.
        cached: it was there already, made of the same weights, with the same gates and packages.
        replays: of its files on this machine.
    """

    path: Path
    cached: bool
    replays: Sequence[Replay]


def deliver(folder: Path, gates: Gates) -> Delivered:
    """Bundle the student of the finished run in ``folder``, put its models into the run's folder
    and report, and replay the bundle.

    Raises:
        UserError: the run is not finished, what it has cannot be exported, or another process is in
            the folder.
        ExportError: a file fails verification; an earlier bundle stays.
        ReplayError: the bundle does not do here what it did when it was exported.
    """
    with folder_lock(folder):
        cached = _bundled(folder, gates)
    return Delivered(folder / BUNDLE, cached, replay(folder / BUNDLE))


def _bundled(folder: Path, gates: Gates) -> bool:
    """See :func:`deliver`; whether the bundle was there already."""
    bundle, made_of = folder / BUNDLE, _made_of(folder, gates)
    cached = _is_whole(bundle) and _noted(folder) == [made_of, file_hash(bundle / CONTRACT)]
    if not cached:
        found = read_exportable(folder)
        reports = write_bundle(
            found.network, found.info, found.data, bundle, gates.formats, gates.max_drop,
            found.exits, gates.early,
        )  # fmt: skip
        beside = []
        for report in reports:
            beside.append(replace(report, path=folder / report.path.name))
            with atomic_write(beside[-1].path) as temporary:
                shutil.copyfile(report.path, temporary)
        record_exports(folder, beside, found.info, found.data)
        with atomic_write(folder / STAGES) as temporary:
            temporary.write_text(
                json.dumps([made_of, file_hash(bundle / CONTRACT)]) + "\n", "utf-8"
            )
    return cached


def _made_of(folder: Path, gates: Gates) -> str:
    """A hash of all that decides what is in the bundle."""
    run = RunFolder(folder)
    if not run.student.is_file():
        raise UserError(f"{folder} holds no finished student; expected {run.student.name}")
    files = [folder / RUN_FILE, run.student, *([run.exits] if run.exits.is_file() else [])]
    versions = {name: find_format(name).versions() for name in gates.formats}
    content = {"files": list(map(file_hash, files)), "gates": asdict(gates), "versions": versions}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _noted(folder: Path) -> list[str]:
    try:
        noted: list[str] = parse_json((folder / STAGES).read_text("utf-8"))
    except (OSError, ValueError):  # made again
        noted = []
    return noted


def _is_whole(bundle: Path) -> bool:
    """Whether every file of a bundle is as its contract says: else it is made again."""
    try:
        hashes = Contract.read(bundle).hashes
        return all(file_hash(bundle / name) == expected for name, expected in hashes.items())
    except (UserError, OSError):
        return False
