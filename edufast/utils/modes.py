"""Train and eval mode of a model, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def in_eval_mode(model: Model) -> Model:
    """``model``, after it was put in eval mode.

    ``model.eval()`` returns what ``train`` returns, which is nothing if a network overrides it to
    keep some layers frozen and forgets to return itself.
    """
    model.eval()
    return model


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` is in eval mode; then every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
