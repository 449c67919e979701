"""Counting floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# For each product of the forward pass, the backward pass computes two: the gradients of the inputs
# and of the weights. They are not counted by torch's counter, which ignores convolution groups in
# the backward pass.
TRAINING_FACTOR = 3


def forward_flops(model: nn.Module, input_size: Sequence[int]) -> int:
    """FLOPs (2 x multiply-adds) of a forward pass in eval mode, for one image of ``input_size``."""
    like = next(model.parameters())
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, *input_size, dtype=like.dtype, device=like.device))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return int(counter.get_total_flops())
