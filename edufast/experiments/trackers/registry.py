"""Trackers by name. A new one is a class like those below and a line here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from edufast.experiments.trackers.curves import point
from edufast.experiments.trackers.mlflow import MLflow
from edufast.experiments.trackers.tensorboard import TensorBoard
from edufast.experiments.trackers.trackio import Trackio
from edufast.experiments.trackers.wandb import WeightsAndBiases
from edufast.utils.errors import UserError, one_line, unknown
from edufast.utils.event_log import Event, Listener
from edufast.utils.extras import needed_for
from edufast.utils.files import atomic_write

_IDENTITY = "tracked"  # file of a run's folder: under which name trackers know it


class Tracker(Protocol):
    """Draws the curves of one run."""

    def log(self, values: Mapping[str, float], samples: int) -> None:
        """Add values, by the names of their curves, after so many samples."""

    def close(self) -> None:
        """Everything was logged, for now."""


# Made with the run's folder, a name that no other run has and that stays when the run is resumed,
# and the run's config.
TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """Check that there are trackers of these names.

    Raises:
        UserError: one is not known.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("--log", name, TRACKERS)


@contextmanager
def tracking(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[list[Listener]]:
    """Listeners for the event log of a run, for the time of the block.

    Args:
        names: of trackers.
        folder: of the run, which exists.
        config: of the run, as JSON types.
        say: told in one line if a tracker fails later on; the run goes on without it.

    Raises:
        UserError: a tracker cannot begin; MissingPackageError where its package is missing.
    """
    check_trackers(names)
    with ExitStack() as stack:
        listeners = []
        for name in dict.fromkeys(names):  # one that is given twice would draw twice
            tracker = _begun(name, folder, config)
            stack.callback(_attempt, name, say, tracker.close)
            listeners.append(_listener(name, tracker, say))
        yield listeners


def _begun(name: str, folder: Path, config: Mapping[str, Any]) -> Tracker:
    try:
        with needed_for(f"--log {name}", name):
            return TRACKERS[name](folder, _identity(folder), config)
    except (UserError, OSError):
        raise
    except Exception as error:  # of a program that may ask for an account and a network
        raise UserError(f"--log {name}: {one_line(error)}") from error


def _listener(name: str, tracker: Tracker, say: Callable[[str], None]) -> Listener:
    works = True

    def listen(event: Event) -> None:
        nonlocal works
        found = point(event)
        if works and found is not None:
            works = _attempt(name, say, tracker.log, found.values, found.samples)

    return listen


def _attempt(
    name: str, say: Callable[[str], None], function: Callable[..., None], *arguments: Any
) -> bool:
    """Whether it was done. No tracker ends a training."""
    try:
        function(*arguments)
    except Exception as error:
        say(f"--log {name}: {type(error).__name__}: {one_line(error)}; going on without it")
        return False
    return True


def _identity(folder: Path) -> str:
    file = folder / _IDENTITY
    if not file.exists():
        with atomic_write(file) as temporary:
            temporary.write_text(uuid.uuid4().hex, "utf-8")
    return file.read_text("utf-8").strip()
