"""Exports of a run: what there is to export, and what goes into its event log and its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from edufast.data import DataSet, load_dataset, runs_code
from edufast.edge.contract import file_hash
from edufast.edge.device_rows import DeviceRow
from edufast.edge.export import ExportReport
from edufast.experiments.answers import keep_answers
from edufast.experiments.events import DeviceEvent, ExportEvent
from edufast.experiments.recipe import Recipe
from edufast.experiments.report import write_report
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.experiments.schema import read_section
from edufast.models.weights import ModelInfo, load_model
from edufast.student.saved_exits import load_exits
from edufast.student.student import Student
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from edufast.utils.lock import folder_lock


@dataclass(frozen=True, eq=False)
class Exportable:
    """A trained model with all that its export takes.

    Attributes:
        network: the model, in eval mode.
        info: what it is.
        data: to verify on, and to calibrate with; of a run, the splits that it trained with.
        exits: the student whose graduate ``network`` is, if it has exits.
        weights: the file that it was read from.
        named: what it is exported as, but for the suffix.
        run: whether it comes from a run, whose event log and report its exports go into.
    """

    network: nn.Module
    info: ModelInfo
    data: DataSet
    exits: Student | None
    weights: Path
    named: Path
    run: bool


def read_exportable(source: Path, data: str | None = None, model: str | None = None) -> Exportable:
    """What the folder of a run, or a file of weights, has to export.

    Args:
        source: of an unfinished run, the best model so far is taken, which has no exits.
        data: a data set to verify on instead of the one that it was trained on.
        model: its import path, if it has one; a run's recipe says it.

    Raises:
        UserError: something is missing, damaged, or would run code that nobody named.
    """
    run = RunFolder(source)
    weights = trained_file(source)
    named = run.student if source.is_dir() else source
    recipe = _recipe(run)
    if model is None and recipe is not None:
        model = recipe.student.model
    network, info = load_model(weights, model=model)
    exits = None
    if weights == run.student and run.exits.is_file():
        exits = load_exits(run.exits, network, (3, info.image_size, info.image_size))
    images = _images(weights, info, data, recipe)
    if data is None and recipe is not None:
        images.check_names(dict(zip(info.class_ids, info.classes, strict=True)), str(weights))
    return Exportable(network, info, images, exits, weights, named, recipe is not None)


def trained_file(source: Path) -> Path:
    """The file of weights that ``source`` stands for: itself, or of a run's folder the student, of
    an unfinished run the best one so far."""
    run = RunFolder(source)
    if not source.is_dir():
        return source
    return run.best if run.best.exists() and not run.student.exists() else run.student


def _recipe(run: RunFolder) -> Recipe | None:
    """The user's own words, which may name code to run."""
    if not run.config_file.is_file():
        return None
    return read_section(RunConfig, run.config_file).recipe


def _images(weights: Path, info: ModelInfo, source: str | None, recipe: Recipe | None) -> DataSet:
    if source is None and recipe is not None:
        return recipe.data.load()
    if source is None and runs_code(info.data):
        raise UserError(
            f"{weights} was trained on {info.data!r}, and reading that runs code; expected --data "
            "to name it, or other images"
        )
    return load_dataset(
        source or info.data,
        image_size=info.image_size,
        on_error="stop" if recipe is None else recipe.data.on_error,
    )


def record_exports(
    folder: Path, reports: Iterable[ExportReport], info: ModelInfo, data: DataSet
) -> None:
    """Log what was exported into the run's folder, ask it about the images set aside, and write the
    report again. The caller holds the folder's lock, from before the first file is written.

    Args:
        folder: of the run.
        reports: of the exports.
        info: of the student.
        data: that it was trained on.

    Raises:
        UserError: the event log is damaged.
    """
    run = RunFolder(folder)
    log = EventLog(run.metrics)
    for report in reports:
        log.write(ExportEvent.of(report))
    keep_answers(run, info, data)
    write_report(folder)


def record_devices(folder: Path, rows: Iterable[DeviceRow]) -> None:
    """Log how exported files of the run in ``folder`` do on devices, and write the report again.

    Raises:
        UserError: the folder holds no run, or not the file that a row is of; or another process is
            in it.
    """
    run = RunFolder(folder)
    run.read_config()
    rows = list(rows)
    for row in rows:
        file = folder / Path(row.file).name
        if not file.is_file() or file_hash(file) != row.sha256:
            raise UserError(
                f"{folder} does not hold the {row.file} that was measured on {row.machine}; "
                "expected the run that exported it, with that file unchanged"
            )
    with folder_lock(folder):
        log = EventLog(run.metrics)
        for row in rows:
            log.write(DeviceEvent(**asdict(row)))
        write_report(folder)
