"""What stands for the capture of a CUDA graph where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def emulated(
    function: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> tuple[Callable[[], None], Tensor]:
    """As :func:`edufast.utils.cuda_graph.capture`: nothing is computed until it is replayed, with
    the numbers that are in ``arguments`` then."""
    result = torch.empty(())

    def replay() -> None:
        found = function(*arguments)
        with torch.no_grad():
            result.resize_(found.shape).copy_(found)

    return replay, result
