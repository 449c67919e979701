"""Modes of models: train and eval mode, module by module, and inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

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


def out_of_inference_mode(x: Tensor) -> Tensor:
    """``x``, or a copy of it where autograd would refuse it: a network that switches to inference
    mode by itself makes such tensors."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
