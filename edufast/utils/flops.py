"""Counting floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edufast.utils.modes import eval_mode

# A backward pass computes two products for every one of the forward pass: for the inputs and for
# the weights. Counting it this way avoids torch's counter there, which ignores convolution groups.
TRAINING_FACTOR = 3


def forward_flops(model: nn.Module, input_size: Sequence[int]) -> int:
    """FLOPs (2 x multiply-adds) of a forward pass in eval mode for one image of ``input_size``."""
    tensors = chain(model.parameters(), model.buffers())
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, *input_size, dtype=like.dtype, device=like.device)
    with eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops())
