"""Classifying pictures with an exported file, by onnxruntime on the CPU and without torch."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edufast.data.centre_crop import CentreCrop
from edufast.data.folder import counted
from edufast.data.image_files import UnreadableImage
from edufast.data.pictures import find_pictures, read_picture
from edufast.edge.runtime import load_session, run_session
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.instances import all_of, check_instance
from edufast.utils.json_text import parse_json

_BATCH = 16  # pictures
_PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's prediction for a picture.

    Attributes:
        picture: the file.
        classes: names, in the order of the logits.
        probabilities: (classes,) float32, the softmax of the logits.
        milliseconds: time that the model took for it, on average over its batch.
        exit: number of fragments that were run; None: the file has no early exits.
    """

    picture: Path
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    milliseconds: float
    exit: int | None

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.top(1)[0][0]

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return self.top(1)[0][1]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The ``count`` most probable classes (all, if there are fewer) and their probabilities."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[c], float(self.probabilities[c])) for c in order]


def predict(path: _PathLike, pictures: _PathLike | Iterable[_PathLike]) -> Iterator[Prediction]:
    """The predictions of an exported student for pictures, in their order, 16 at a time.

        for prediction in edufast.predict("student.onnx", "folder/of/pictures"):
            print(prediction.picture, prediction.name, prediction.probability)

    Pictures are decoded, turned upright, cropped and resized as in validation, by the rule in the
    file's metadata. Folders are searched at any depth; hidden files and files that are not pictures
    are left out, and a warning counts them.

    Args:
        path: an .onnx file that :func:`edufast.export` wrote with ``mean``, ``std`` and
            ``classes``, or a run folder, whose student.onnx is used.
        pictures: files and folders, or one of them.

    Raises:
        UserError: there is no such file, it is of another kind, or there are no pictures.
        UnreadableImage: after the last prediction; names all pictures that cannot be read or
            decoded.
    """
    check_instance("path", path, str, os.PathLike)
    one = isinstance(pictures, str | os.PathLike)
    several = all_of("pictures", [pictures] if one else pictures, str, os.PathLike)
    return ExportedModel(Path(path)).predict(pictures_of(map(Path, several)))


def pictures_of(given: Iterable[Path]) -> list[Path]:
    """The pictures among files and in folders; a warning counts what is left out.

    Raises:
        UserError: as :func:`edufast.data.pictures.find_pictures`.
    """
    found, skipped = find_pictures(given)
    if skipped:
        warnings.warn(
            f"{len(found)} pictures are used, {skipped.total()} entries left out: "
            f"{counted(skipped)}",
            stacklevel=3,
        )
    return found


def exported_models(path: Path, *, integers: bool) -> dict[str, ExportedModel]:
    """The exported file at ``path``, by its name. For a folder: the student's file and, if there
    are some, those of its exits.

    Args:
        integers: whether to include 8-bit files of a folder.

    Raises:
        UserError: as :class:`ExportedModel`.
    """
    file = _file(path)
    others = sorted(path.glob("student*.onnx")) if path.is_dir() else []
    wanted = [each for each in others if integers or each.suffixes == [".onnx"]]
    found = list(dict.fromkeys([file, *wanted]))
    threads = 1 if len(found) > 1 else 0  # so that their times can be compared
    return {each.name: ExportedModel(each, threads) for each in found}


def predict_each(
    models: Mapping[str, ExportedModel], pictures: Sequence[Path]
) -> Iterator[dict[str, Prediction]]:
    """What each of ``models`` predicts for image files, in their order. Several models see one
    picture at a time, so that their times can be compared; a single model sees 16 at a time.

    Raises:
        UnreadableImage: after the last one; names the files that cannot be read or decoded.
    """
    unreadable: list[Path] = []
    readable = _views(list(models.values()), pictures, unreadable)
    size = _BATCH if len(models) == 1 else 1
    while batch := list(islice(readable, size)):
        paths, views = zip(*batch, strict=True)
        seen = map(np.stack, zip(*views, strict=True))
        columns = [m.ask(paths, batch) for m, batch in zip(models.values(), seen, strict=True)]
        for row in zip(*columns, strict=True):
            yield dict(zip(models, row, strict=True))
    if unreadable:
        raise UnreadableImage(*unreadable, advice="")


def _views(
    models: Sequence[ExportedModel], pictures: Sequence[Path], unreadable: list[Path]
) -> Iterator[tuple[Path, list[NDArray[np.uint8]]]]:
    """Each picture that can be decoded, once, as each model wants it."""
    for path in pictures:
        try:
            picture = read_picture(path)
        except UnreadableImage:
            unreadable.append(path)
        else:
            yield path, [model.crop(picture) for model in models]


class ExportedModel:
    """An exported file, loaded and checked.

    Args:
        path: the file, or a run folder.
        threads: of onnxruntime; 0: as many as it takes.

    Attributes:
        classes: names, in the order of the logits.
        crop: the rule by which a decoded picture is cropped and resized.

    Raises:
        UserError: there is no such file, or it cannot classify pictures.
    """

    classes: tuple[str, ...]
    crop: CentreCrop

    def __init__(self, path: Path, threads: int = 0) -> None:
        file = _file(path)
        _require_pillow()
        self._session = load_session(file, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.classes, self.crop = _described(file, metadata)
        inputs = [(each.type, each.shape[1:]) for each in self._session.get_inputs()]
        outputs = [each.shape[1:] for each in self._session.get_outputs()]
        wanted = [("tensor(uint8)", [*self.crop.crop, 3])], [[len(self.classes)]]
        if (inputs, outputs[:1]) != wanted or outputs[1:] not in ([], [[]]):
            raise UserError(
                f"{file} maps {inputs} to {outputs}; expected {wanted[0]} to {wanted[1]}, from "
                "pictures in RGB to the classes that its metadata names"
            )
        # The first answer takes longer: not while a picture waits.
        run_session(self._session, np.zeros((1, *self.crop.crop, 3), np.uint8))

    def predict(self, pictures: Sequence[Path]) -> Iterator[Prediction]:
        """The predictions of image files, in their order.

        Raises:
            UnreadableImage: after the last one; names the files that cannot be read or decoded.
        """
        return (each[""] for each in predict_each({"": self}, pictures))

    def ask(self, pictures: Sequence[Path], views: NDArray[np.uint8]) -> list[Prediction]:
        """The predictions for pictures, given what :attr:`crop` makes of them."""
        started = time.perf_counter()
        logits, *exits = run_session(self._session, views)
        milliseconds = 1000 * (time.perf_counter() - started) / len(views)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = exponentials / exponentials.sum(axis=1, keepdims=True)
        depths = exits[0].tolist() if exits else [None] * len(views)
        return [
            Prediction(path, self.classes, share, milliseconds, depth)
            for path, share, depth in zip(pictures, shares, depths, strict=True)
        ]


def _file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path} does not exist; expected an .onnx file or a run folder")
        return path
    file = path / "student.onnx"
    if not file.is_file():
        raise UserError(f"{path} has no student.onnx; write it with: edufast export {path}")
    return file


def _require_pillow() -> None:
    with needed_for("predicting", "export"):
        import PIL.Image  # noqa: F401


def _described(file: Path, metadata: dict[str, str]) -> tuple[tuple[str, ...], CentreCrop]:
    """Classes and resize rule, as the file's metadata says.

    Raises:
        UserError: they are missing, or the file expects normalised images.
    """
    for key in ("classes", "preprocessing"):
        if key not in metadata:
            raise UserError(
                f"{file} has no {key!r} in its metadata; expected a file written by edufast.export "
                "with class names"
            )
    try:
        classes, preprocessing = (parse_json(metadata[k]) for k in ("classes", "preprocessing"))
        takes_bytes, resize = (
            preprocessing["input"].startswith("uint8"),
            preprocessing.get("resize"),
        )
        rule = None if resize is None else CentreCrop.from_dict(resize)
        names = tuple(map(str, classes))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file} has no valid metadata; expected those that edufast.export writes"
        ) from error
    if not takes_bytes:
        raise UserError(
            f"{file} takes normalised images; expected a file that takes bytes, exported with mean "
            "and std"
        )
    if rule is None:
        raise UserError(
            f"{file} was written by an earlier version, without a resize rule; export it again"
        )
    return names, rule
