"""Counting floating-point operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
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
    with eval_mode(model), torch.no_grad(), counted_flops() as counter:
        model(image)
    return int(counter.get_total_flops())


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of what runs within the block, on every device alike.

    Attention runs as single products: the counter does not know the fused kernels of the CPU, nor
    those by which torch's transformer layers replace themselves in eval mode.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
