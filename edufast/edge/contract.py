"""A bundle's description of itself, contract.json, read and written without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edufast.utils.errors import UserError
from edufast.utils.json_text import parse_json

CONTRACT, GOLDEN, CARD, SCRIPT = "contract.json", "golden.npz", "README.md", "predict.py"
SUFFIX = ".edge"  # of a bundle's folder
VERSION = 2


@dataclass(frozen=True)
class BundledFile:
    """A model in a bundle, and what was measured when it was exported.

    Attributes:
        name: the file's name.
        format: see :data:`edufast.edge.registry.FORMATS`.
        exact: whether it computes what the model computes, apart from rounding.
        sha256: of its content.
        accuracy, accuracy_torch: of the file and of the model, on ``images`` validation images.
        interval: of their difference: paired, 95 %.
        exit: number of the student's fragments in it, if it ends at an exit.
        early: for a program with early exits, see :class:`edufast.edge.early_exit.EarlyExits`.
    """

    name: str
    format: str
    exact: bool
    sha256: str
    bytes: int
    images: int
    accuracy: float
    accuracy_torch: float
    interval: tuple[float, float]
    exit: int | None = None
    early: dict[str, Any] | None = None


@dataclass(frozen=True)
class Contract:
    """Everything that a program on the device needs to know besides the model's graph.

    Attributes:
        classes: names, in the order of the logits.
        input: name, type and layout of the images; pixels are normalised inside.
        resize: the rule of validation, see :class:`edufast.data.centre_crop.CentreCrop`.
        output: name and type of the logits.
        files: the models.
        golden: SHA-256 of the file that holds images and every model's logits for them.
        versions: versions of the packages that wrote the bundle.
    """

    classes: tuple[str, ...]
    input: dict[str, Any]
    resize: dict[str, Any]
    output: dict[str, Any]
    files: tuple[BundledFile, ...]
    golden: str
    versions: dict[str, str]

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files of the bundle that must not change, by name."""
        return {GOLDEN: self.golden, **{file.name: file.sha256 for file in self.files}}

    def write(self, folder: Path) -> None:
        """Write contract.json into ``folder``."""
        text = json.dumps({"contract": VERSION, **asdict(self)}, indent=1, ensure_ascii=False)
        (folder / CONTRACT).write_text(text + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Contract:
        """Read the contract of the bundle ``folder``.

        Raises:
            UserError: it is not a bundle, is of another version, or its contract is not valid.
        """
        path = folder / CONTRACT
        if not path.is_file():
            raise UserError(f"{folder} has no {CONTRACT}; expected a bundle, such as student.edge")
        try:
            said = parse_json(path.read_text("utf-8"))
            version = said.pop("contract")
            if version != VERSION:
                raise UserError(f"{path} has version {version!r}; expected {VERSION}")
            files = tuple(BundledFile(**each) for each in said.pop("files"))
            for each in files:
                if Path(each.name).name != each.name or not isinstance(each.exact, bool):
                    raise ValueError(each.name)
            if not files:
                raise ValueError("no files")
            contract = cls(files=files, **said)
        except UserError:  # a ValueError, too
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is not a valid contract; expected one written by edufast export"
            ) from error
        return contract


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
