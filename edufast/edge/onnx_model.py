"""An .onnx file as a module, to be a teacher."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edufast.edge.runtime import open_session, run_session
from edufast.utils.errors import UserError, one_line
from edufast.utils.instances import check_instance


class OnnxModel(nn.Module):
    """Runs an .onnx file, from any program, in onnxruntime on the CPU; it cannot learn.

    Its logits can be distilled and stored, but its features cannot be read, and its FLOPs are not
    counted. The file must be whole: weights in files of their own are not found.

    Args:
        path: of a file that takes float32 (N, 3, H, W) for any N; of several outputs the first
            counts.

    Raises:
        UserError: onnxruntime is missing or cannot load the file, or it takes something else.
    """

    content: Tensor

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        check_instance("path", path, str, os.PathLike)
        self.name = str(path)
        if not Path(path).is_file():
            raise UserError(f"no model at {path}; expected an .onnx file")
        self.register_buffer("content", torch.from_numpy(np.fromfile(path, dtype=np.uint8)))
        self._session: Any = None
        session = self._opened()
        with self._refused("takes inputs that cannot be read"):
            taken = [(one.type, one.shape) for one in session.get_inputs()]
        if len(taken) != 1 or taken[0][0] != "tensor(float)" or len(taken[0][1]) != 4:
            found = ", ".join(f"{kind} {shape}" for kind, shape in taken)
            raise UserError(f"{path} takes {found}; expected float32 images (N, 3, H, W)")

    def forward(self, images: Tensor) -> Tensor:
        """Its first output (N, ...) for images (N, 3, H, W), on their device.

        Raises:
            UserError: the file cannot take images of this size, or gives no tensor.
        """
        session = self._opened()
        with self._refused(f"cannot take images {tuple(images.shape)}"):
            outputs = run_session(session, images.detach().float().cpu().numpy())
            return torch.from_numpy(outputs[0]).to(images.device)

    @contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's errors share no public base class
            raise UserError(f"{self.name} {what}: {one_line(error)}") from error

    def _opened(self) -> Any:
        if self._session is None:
            content = self.content.cpu().numpy().tobytes()
            self._session = open_session(content, self.name, torch.get_num_threads())
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        """Copies open the file anew."""
        return {**super().__getstate__(), "_session": None}
