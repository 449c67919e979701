"""What a format of exported files is: a module with these names, entered in `registry`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edufast.edge.original import Original
from edufast.edge.parity import Run

if TYPE_CHECKING:
    import onnx


class Format(Protocol):
    """A module that writes files of one format and runs them."""

    @property
    def SUFFIX(self) -> str:
        """What the names of its files end with."""

    @property
    def INTEGERS(self) -> bool:
        """The files compute in 8-bit integers: writing takes calibration images, and files are
        judged by how much accuracy they lose. Others compute what the model computes, but for
        rounding: any difference in accuracy is a fault."""

    def require(self) -> None:
        """Check that every package it needs can be imported.

        Raises:
            UserError: one cannot; the message says how to install it.
        """

    def versions(self) -> dict[str, str]:
        """Versions of the packages that determine a file's content, for its metadata."""

    def write(self, original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the model to ``path``: one file, the same bytes every time, and nothing of the
        machine in it.

        Raises:
            ExportError: the model cannot be written in this format.
        """

    def runner(self, path: Path, threads: int | None = None) -> Run:
        """A function that maps images to logits by running the file in the format's own runtime.

        Args:
            threads: of the runtime; None: as many as torch takes.

        Raises:
            ExportError: the runtime cannot load the file or, when called, cannot run it on a batch.
        """


@runtime_checkable
class OnnxFormat(Format, Protocol):
    """A format of .onnx files, which may branch: it can have early exits."""

    def graph(self, original: Original, outputs: Sequence[str]) -> onnx.ModelProto:
        """The model as an ONNX program with outputs of these names, without metadata of its own
        other than what the format adds.

        Raises:
            ExportError: as :meth:`write`.
        """
