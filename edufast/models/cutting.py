"""Cutting a classifier into consecutive fragments that use its weights."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

from edufast.models.tracing import (
    Forward,
    Trace,
    compile_graph,
    measure,
    module_path,
    trace,
    traced_module,
    try_out,
)
from edufast.utils.errors import UserError
from edufast.utils.instances import listed

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
_FUNCTIONS_FIRST = {"conv1d", "conv2d", "conv3d", "batch_norm", "group_norm"}
_FUNCTIONS_LAST = {"linear", "layer_norm"}
_MOVES_AXES = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "getattr"}
_RESHAPES = {"reshape", "reshape_as", "view", "view_as", "flatten", "unflatten"}


@dataclass(frozen=True)
class Fragment:
    """A consecutive slice of a model's layers; ``fragment(model, x)`` runs it.

    Attributes:
        name: path of the module at which the fragment ends, such as ``"layer2"``.
        flops: forward FLOPs per image, 2 x multiply-adds.
        shape: shape of the output for one image, without the batch dimension.
        channels_last: the channels are the last axis of the output, not the first.
        parameters: names of the model's parameters that the fragment uses.
        modules: paths of the modules that it runs.
        train, eval: the slice as traced in each mode, because a trace treats ``self.training`` as
            a constant.
    """

    name: str
    flops: int
    shape: tuple[int, ...]
    channels_last: bool
    parameters: frozenset[str]
    modules: frozenset[str]
    train: Forward
    eval: Forward

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.shape[-1 if self.channels_last else 0]

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of the output without the channels, such as (H, W) or (N,)."""
        return self.shape[:-1] if self.channels_last else self.shape[1:]

    @property
    def places(self) -> int:
        """Number of locations in the output: pixels or tokens."""
        return math.prod(self.size)

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        return (self.train if model.training else self.eval)(model, x)


@dataclass(frozen=True)
class Cutting:
    """A model cut into fragments.

    Attributes:
        fragments: in order.
        classifier: path of the final layer.
        closing: the last fragment in up to three parts: up to its last feature map or tokens, from
            there to the classifier's input, and the classifier.
    """

    fragments: tuple[Fragment, ...]
    classifier: str
    closing: tuple[Fragment, ...]


def cut(
    model: nn.Module,
    fragments: int,
    *,
    input_size: Sequence[int],
    cuts: Sequence[str] | None = None,
) -> Cutting:
    """Split a classifier into consecutive fragments; the last one includes its classifier.

    Without ``cuts``, each cut is within half a fragment of an even division of the FLOPs. In that
    window the outermost module boundary is preferred (so stages are kept whole), then the nearest.

    Args:
        model: maps (B, *input_size) to logits (B, num_classes). Its state is not changed.
        fragments: their number, at least 1.
        input_size: shape of one image, usually (3, H, W).
        cuts: ``fragments - 1`` module paths, in order, after which to cut.

    Raises:
        TypeError: ``model`` is not a module.
        UserError: the model cannot be traced, does not end in a linear classifier, or cannot be cut
            as asked; the message names the module or the possible cuts.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r}: expected an nn.Module")
    if not isinstance(fragments, int) or fragments < 1:
        raise UserError(f"fragments={fragments!r}: expected a positive integer")
    if not isinstance(input_size, Sequence) or not all(
        isinstance(size, int) and size > 0 for size in input_size
    ):
        raise UserError(f"input_size={input_size!r}: expected sizes such as (3, 32, 32)")
    try_out(model, input_size)
    traces = {training: trace(model, training, input_size) for training in (True, False)}
    nodes = traces[False].nodes
    flops, shapes = measure(model, traces[False], input_size)
    done = list(itertools.accumulate(flops))
    classifier = _classifier(model, traces.values(), shapes.get(nodes[-1]))

    crossings = {
        name: index
        for name, index in traces[False].crossings.items()
        if name in traces[True].crossings and nodes[index] in shapes
    }
    body = next(done[i - 1] for i, node in enumerate(nodes) if node.target == classifier)
    candidates = _candidates(nodes, crossings, done, body)
    if cuts is None:
        chosen = _balanced(candidates, done[-1], fragments)
    else:
        chosen = _named(cuts, crossings, candidates, fragments)

    def piece(start: str | None, stop: str | None) -> Fragment:
        graphs = {training: traced.slice(start, stop) for training, traced in traces.items()}
        first = crossings[start] if start else 0
        last = crossings[stop] if stop else len(nodes) - 1
        title = f"{type(model).__name__}.{stop or classifier}"
        shape = shapes[nodes[last]]
        channels_last = _channels_last(model, nodes[last], shapes)
        if channels_last is None and stop in chosen:
            raise UserError(
                f"cannot tell which axis of the features after {stop!r}, {shape} for one image, "
                "holds the channels, because no layer near it has weights; expected other cuts; "
                f"possible: {', '.join(candidate.name for candidate in candidates)}"
            )
        return Fragment(
            name=stop or classifier,
            flops=done[last] - done[first],
            shape=shape,
            channels_last=len(shape) == 2 if channels_last is None else channels_last,
            parameters=_parameters(model, graphs.values()),
            modules=frozenset(_targets(graphs.values(), "call_module")),
            train=compile_graph(graphs[True], f"{title}.train"),
            eval=compile_graph(graphs[False], f"{title}.eval"),
        )

    head = next(i for i, node in enumerate(nodes) if node.target == classifier)
    start = crossings[chosen[-1]] if chosen else 0
    inside = {name: shapes[nodes[i]] for name, i in crossings.items() if start < i < head}
    stops = dict.fromkeys([*_last_map(inside), *list(inside)[-1:]])
    closing = [chosen[-1] if chosen else None, *stops, None]
    return Cutting(
        tuple(piece(*ends) for ends in itertools.pairwise([None, *chosen, None])),
        classifier,
        tuple(piece(*ends) for ends in itertools.pairwise(closing)),
    )


def truncate(
    model: nn.Module, stop: str, head: nn.Module, *, input_size: Sequence[int]
) -> nn.Module:
    """The model up to cut ``stop``, followed by ``head``, as a plain module for inference.

    A copy in eval mode. Its state dict has the model's names, and ``exit.*`` for the head.
    """
    graph = trace(model, False, input_size).slice(None, stop)
    output = graph.output_node()
    with graph.inserting_before(output):
        output.args = (graph.call_module("exit", output.args),)
    parts: dict[str, Any] = {"exit": traced_module(head)}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target != "exit":
            parts[str(node.target)] = attrgetter(str(node.target))(model)
    return copy.deepcopy(fx.GraphModule(parts, graph, type(model).__name__)).eval()


def _classifier(model: nn.Module, traces: Iterable[Trace], logits: tuple[int, ...] | None) -> str:
    """Path of the layer whose weight has one row per class, in both modes."""
    paths = {_find_classifier(model, traced) for traced in traces}
    path = paths.pop()
    rows = None if path is None else model.get_submodule(path).get_parameter("weight").shape[:1]
    if path is None or paths or logits != rows:
        raise UserError(
            f"cannot find the classifier of {type(model).__name__}: expected logits (B, classes) "
            "from a final nn.Linear or 1x1 nn.Conv2d, in train and eval mode"
        )
    return path


def _find_classifier(model: nn.Module, traced: Trace) -> str | None:
    """The linear layer or 1x1 convolution that only layers without weights separate from the
    logits."""
    node = traced.nodes[-1]
    if not isinstance(node.args[0], fx.Node):  # a tuple, perhaps of the logits twice
        return None
    while len(node.all_input_nodes) == 1:
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            if isinstance(module, nn.Linear) or (
                isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}
            ):
                return str(node.target)
            if next(module.parameters(), None) is not None:
                return None
        node = node.all_input_nodes[0]
    return None


@dataclass(frozen=True)
class _Candidate:
    """A possible cut.

    Attributes:
        name: of the crossing.
        done: FLOPs per image before the cut.
        inside: the cut is inside a module's forward.
        depth: number of modules whose forward contains the cut.
    """

    name: str
    done: int
    inside: bool
    depth: int


def _candidates(
    nodes: Sequence[fx.Node], crossings: dict[str, int], done: Sequence[int], body: int
) -> list[_Candidate]:
    """Candidates in order, with FLOPs before, between and after them.

    ``body`` are the FLOPs before the classifier. Of crossings with equal FLOPs (after a
    convolution, its norm, its activation) the outermost is kept, or else the last.
    """
    best: dict[int, _Candidate] = {}
    for name, index in crossings.items():
        following = next(node for node in nodes[index + 1 :] if node.op != "get_attr")
        here, there = _owner(nodes[index]), _owner(following)
        depth = sum(itertools.accumulate(map(operator.eq, here, there), operator.and_))
        found = _Candidate(name, done[index], here == there, depth)
        if 0 < found.done < body:
            rival = best.get(found.done, found)
            best[found.done] = min(found, rival, key=lambda c: (c.inside, c.depth))
    return list(best.values())


def _owner(node: fx.Node) -> list[str]:
    """Path of the module whose forward runs the node."""
    return module_path(node)[:-1] if node.op == "call_module" else module_path(node)


def _balanced(candidates: Sequence[_Candidate], total: int, fragments: int) -> list[str]:
    cuts = fragments - 1
    if len(candidates) < cuts:
        raise UserError(
            f"fragments={fragments} needs {cuts} cuts, but only {len(candidates)} are possible: "
            f"{', '.join(candidate.name for candidate in candidates)}"
        )
    chosen: list[str] = []
    rest = list(candidates)
    for number in range(1, fragments):

        def offset(candidate: _Candidate, number: int = number) -> float:
            """Distance from an even division, in fragments."""
            return abs(candidate.done / total * fragments - number)

        allowed = rest[: len(rest) - (cuts - number)]  # leave enough for the remaining cuts
        window = [candidate for candidate in allowed if offset(candidate) <= 0.5]
        if window:
            pick = min(window, key=lambda c: (c.inside, c.depth, offset(c)))
        else:
            pick = min(allowed, key=offset)
        chosen.append(pick.name)
        rest = rest[rest.index(pick) + 1 :]
    return chosen


def _named(
    cuts: Sequence[str],
    crossings: dict[str, int],
    candidates: Sequence[_Candidate],
    fragments: int,
) -> list[str]:
    names = listed(cuts)
    if names is None or len(names) != fragments - 1:
        raise UserError(f"cuts={cuts!r}: expected {fragments - 1} names for {fragments} fragments")
    for name in names:
        if not isinstance(name, str) or name not in crossings:
            possible = ", ".join(candidate.name for candidate in candidates)
            raise UserError(f"cuts: cannot cut after {name!r}; possible: {possible}")
    if any(crossings[a] >= crossings[b] for a, b in itertools.pairwise(names)):
        raise UserError(f"cuts={names}: expected each once, in the order of the data")
    return names


def _channels_last(
    model: nn.Module, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]
) -> bool | None:
    """Whether the channels of a value are its last axis, or the first after the batch.

    Decided by the nearest layer before the value, otherwise by the nearest one after it; if axes
    are permuted in between, by the number of channels. None: undecided.
    """
    shape = shapes[node]
    if len(shape) == 1:
        return False
    for permuted in (False, True):
        for makers in (True, False):
            for layer, size, first, last in _near(model, node, shapes, makers, permuted):
                is_last = _takes_last_axis(model, layer, size, first, last)
                if is_last is None:
                    continue
                if not permuted:
                    return is_last
                channels = size[-1 if is_last else 0]
                if (shape[0] == channels) != (shape[-1] == channels):
                    return shape[-1] == channels
    return None


def _near(
    model: nn.Module,
    node: fx.Node,
    shapes: dict[fx.Node, tuple[int, ...]],
    makers: bool,
    permuted: bool,
) -> Iterator[tuple[fx.Node, tuple[int, ...], bool, bool]]:
    """Layers before a value or, unless ``makers``, after it, from near to far, each with the shape
    of the value there and whether its first and its last axis may be those of ``node``.

    Reshaping is followed for axes whose sizes it keeps, permutations only if ``permuted``.
    """
    queue = [(node, True, True)]
    seen = {node}
    for value, first, last in queue:
        for layer in [value] if makers else value.users:
            yield layer, shapes[value], first, last
        for other in value.all_input_nodes if makers else value.users:
            source, result = (other, value) if makers else (value, other)
            if other in seen or other not in shapes or _is_opaque(model, result):
                continue
            seen.add(other)
            a, b = shapes[source], shapes[result]
            name = getattr(result.target, "__name__", result.target)
            if name in _RESHAPES:
                queue.append((other, first and a[0] == b[0], last and a[-1] == b[-1]))
            elif name in _MOVES_AXES:
                if permuted and sorted(a) == sorted(b):
                    queue.append((other, True, True))
            elif a == b:
                queue.append((other, first, last))


def _takes_last_axis(
    model: nn.Module, node: fx.Node, shape: tuple[int, ...], first: bool, last: bool
) -> bool | None:
    """Whether a layer's channels are the last axis, or the first; None: undecided.

    ``first`` and ``last`` say which of the two are possible.
    """
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        return False if name in _FUNCTIONS_FIRST else True if name in _FUNCTIONS_LAST else None
    if node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    if isinstance(module, _CHANNELS_FIRST):
        return False if first else None
    if isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:  # subclasses move axes
        return True if last else None
    widths = {size for parameter in module.parameters() for size in parameter.shape}
    first, last = first and shape[0] in widths, last and shape[-1] in widths
    return last if first != last else None


def _is_opaque(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node calls a module that was not traced into."""
    if node.op != "call_module":
        return False
    return next(model.get_submodule(str(node.target)).children(), None) is not None


def _last_map(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The last crossing whose value has more than one location, if any."""
    return [name for name, shape in shapes.items() if sum(size > 1 for size in shape) > 1][-1:]


def _parameters(model: nn.Module, graphs: Iterable[fx.Graph]) -> frozenset[str]:
    """Names of the parameters that the graphs read."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    targets = _targets(graphs, "call_module", "get_attr")
    return frozenset(
        name for name in known if any(f"{name}.".startswith(f"{target}.") for target in targets)
    )


def _targets(graphs: Iterable[fx.Graph], *ops: str) -> set[str]:
    """Paths of what the graphs run or read, by the kind of node."""
    return {str(node.target) for graph in graphs for node in graph.nodes if node.op in ops}
