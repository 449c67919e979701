"""Flash and RAM that a network needs at least, counted from its layers: nothing is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from edufast.models.bn_folding import folded_if_traceable
from edufast.models.tracing import measure, trace


@dataclass(frozen=True)
class Footprint:
    """Of a network for inference, one image at a time, its batch norms folded.

    Attributes:
        flops: forward, 2 x multiply-adds.
        weights: numbers that layers multiply by.
        others: parameters of one axis: biases, norms.
        channels: output channels of all layers, each of which has a scale where weights are
            integers.
        activations: the most numbers that have to be in memory at once.
    """

    flops: int
    weights: int
    others: int
    channels: int
    activations: int

    def flash(self, *, integers: bool) -> int:
        """Bytes of weights, without the graph: 4 a number; of 8-bit weights 1, with biases and
        scales of 4."""
        if integers:
            return self.weights + 4 * (self.others + self.channels)
        return 4 * (self.weights + self.others)

    def ram(self, *, integers: bool) -> int:
        """Bytes of activations, without what a runtime needs for itself."""
        return self.activations if integers else 4 * self.activations


def footprint(model: nn.Module, input_size: Sequence[int]) -> Footprint:
    """Count the network's weights, and the activations that are in memory at the same time: an
    operator's output beside everything that it or a later one still reads. What changes numbers one
    by one (ReLU, reshaping) does so in place.

    Args:
        model: maps (B, *input_size) to logits.

    Raises:
        UserError: it cannot be traced.
    """
    folded = folded_if_traceable(model)
    traced = trace(folded, False, input_size)
    flops, shapes = measure(folded, traced, input_size)
    parameters = list(folded.parameters())
    layers = [p for p in parameters if p.dim() > 1]
    return Footprint(
        flops=sum(flops),
        weights=sum(p.numel() for p in layers),
        others=sum(p.numel() for p in parameters if p.dim() <= 1),
        channels=sum(p.shape[0] for p in layers),
        activations=_most_at_once(folded, traced.nodes, shapes),
    )


def _most_at_once(
    model: nn.Module, nodes: Sequence[fx.Node], shapes: dict[fx.Node, tuple[int, ...]]
) -> int:
    owner: dict[fx.Node, fx.Node] = {}  # the node whose memory a node's value is in
    last: dict[fx.Node, int] = {}  # when that memory is read for the last time
    for i, node in enumerate(nodes):
        read = [each for each in node.all_input_nodes if each in owner]
        for each in read:
            last[owner[each]] = i
        if node in shapes:
            in_place = (
                len(read) == 1
                and math.prod(shapes[read[0]]) == math.prod(shapes[node])
                and not _has_weights(model, node)
            )
            owner[node] = owner[read[0]] if in_place else node
            last[owner[node]] = i
    first = {node: i for i, node in enumerate(nodes) if node in last}
    return max(
        sum(math.prod(shapes[o]) for o in last if first[o] <= i <= last[o]) for i in first.values()
    )


def _has_weights(model: nn.Module, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    return next(model.get_submodule(str(node.target)).parameters(), None) is not None
