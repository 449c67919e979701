"""The predictions of exported files for each validation image, kept with the run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edufast.data import DataSet
from edufast.edge.parity import BATCH
from edufast.edge.registry import FORMATS
from edufast.edge.seal import is_damaged
from edufast.edge.trained import known_images
from edufast.experiments.run_folder import RunFolder
from edufast.models.weights import ModelInfo
from edufast.utils.extras import MissingPackageError
from edufast.utils.files import atomic_write


@dataclass(frozen=True, eq=False)
class Answers:
    """About N images, of which no file has learned.

    Attributes:
        classes: names.
        trained: (classes,) int64, the images of each that were learned from.
        labels: (N,) int64, the class of each image, a position among ``classes``.
        pictures: (N,) files of the images; none if they are arrays.
        chosen: (N,) int64 by the name of an exported file: its answers.
        confidence: (N,) float32 likewise: the probability of the class that it chose.
    """

    classes: tuple[str, ...]
    trained: NDArray[np.int64]
    labels: NDArray[np.int64]
    pictures: tuple[Path, ...]
    chosen: Mapping[str, NDArray[np.int64]]
    confidence: Mapping[str, NDArray[np.float32]]

    def save(self, path: Path) -> None:
        """Write a file for :meth:`load`."""
        arrays: dict[str, Any] = {
            "classes": np.array(self.classes, np.str_),
            "trained": self.trained,
            "labels": self.labels,
            "pictures": np.array([str(picture) for picture in self.pictures], np.str_),
        }
        for name in self.chosen:
            arrays[f"chosen/{name}"] = self.chosen[name]
            arrays[f"confidence/{name}"] = self.confidence[name]
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Answers | None:
        """What was saved; None: nothing, or it is damaged, of which a warning tells."""
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                names = [key.partition("/")[2] for key in found if key.startswith("chosen/")]
                return cls(
                    tuple(map(str, found["classes"])),
                    found["trained"],
                    found["labels"],
                    tuple(map(Path, found["pictures"])),
                    {name: found[f"chosen/{name}"] for name in names},
                    {name: found[f"confidence/{name}"] for name in names},
                )
        except Exception:  # a damaged archive can fail in any way
            warnings.warn(f"{path} is damaged and left out", stacklevel=2)
            return None


def keep_answers(folder: RunFolder, info: ModelInfo, data: DataSet) -> None:
    """Ask all exported files of a run, and keep what they answer there. Those that are damaged, or
    whose runtime is not installed, are left out, of which a warning tells.

    Args:
        folder: of the run.
        info: of the student.
        data: that it was trained on.

    Raises:
        UserError, ExportError: as :func:`ask`.
    """
    exported = {folder.path / e.path: e.format or "onnx" for e in folder.log().exports}
    ask({p: f for p, f in exported.items() if _can_run(p, f)}, info, data).save(folder.answers)


def _can_run(path: Path, form: str) -> bool:
    if not path.is_file():
        return False
    if is_damaged(path.read_bytes()):
        warnings.warn(
            f"{path} is damaged and left out; edufast export writes it again", stacklevel=3
        )
        return False
    try:
        FORMATS[form].require()
    except MissingPackageError as error:
        warnings.warn(f"{path} is left out: {error}", stacklevel=3)
        return False
    return True


def ask(files: Mapping[Path, str], info: ModelInfo, data: DataSet) -> Answers:
    """Run exported files on all images of the validation split.

    Args:
        files: each with the name of its format.
        info: of the model that they were exported from.
        data: whose validation split they did not learn from.

    Raises:
        UserError: a class of the model has no image there.
        ExportError: a file cannot be run.
    """
    images, labels = known_images(data, "validation", info)
    runs = {path.name: FORMATS[form].runner(path) for path, form in files.items()}
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in runs}
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        for name, run in runs.items():
            logits[name].append(run(batch))
    chosen, confidence = {}, {}
    for name, batches in logits.items():
        found = np.concatenate(batches)
        chosen[name] = found.argmax(1)
        # The probability of the largest logit is one over the sum of exp(logit - largest).
        confidence[name] = 1 / np.exp(found - found.max(1, keepdims=True)).sum(1)
    trained = np.array([np.count_nonzero(data.train.labels == c) for c in info.class_ids])
    return Answers(info.classes, trained, labels, images.files, chosen, confidence)
