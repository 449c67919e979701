"""Cutting a classifier into consecutive fragments that share its weights.

The model is traced with torch.fx and cut where a single tensor flows. A fragment is the traced
code between two cuts, run with the *original* model as ``self``: weights, buffers, devices and
modes have one home, the model, and cutting changes nothing about it.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edufast.errors import UserError

Forward = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Fragment:
    """A consecutive slice of a model's layers; ``fragment(model, x)`` runs it.

    Attributes:
        name: path of the module the fragment ends with, such as ``"layer2"``.
        flops: forward FLOPs per image, 2 x multiply-adds.
        shape: shape of the output for one image, without the batch dimension.
        parameters: names of the model's parameters that the fragment uses.
        train, eval: the slice as traced in either mode, for what a forward reads from
            ``self.training`` becomes a constant of the trace.
    """

    name: str
    flops: int
    shape: tuple[int, ...]
    parameters: frozenset[str]
    train: Forward
    eval: Forward

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        return (self.train if model.training else self.eval)(model, x)


@dataclass(frozen=True)
class Cutting:
    """The fragments of a model, in order, and the path of its final classifier."""

    fragments: tuple[Fragment, ...]
    classifier: str


def cut(
    model: nn.Module,
    fragments: int,
    *,
    input_size: Sequence[int],
    cuts: Sequence[str] | None = None,
) -> Cutting:
    """Split a classifier into consecutive fragments; the last one includes its classifier.

    Without ``cuts``, every cut falls where the FLOPs are shared out evenly, give or take half a
    fragment. Inside that window the outermost module boundary wins (so a stage is kept whole where
    the model is made of stages), then the nearest one.

    Args:
        model: maps (B, *input_size) to logits (B, num_classes). Its state is not changed.
        fragments: how many, at least 1.
        input_size: shape of one image, usually (3, H, W).
        cuts: ``fragments - 1`` module paths, in order, after which to cut.

    Raises:
        UserError: the model cannot be traced, does not end in a linear classifier, or cannot be cut
            as asked; the message names the module or the possible cuts.
    """
    if not isinstance(fragments, int) or fragments < 1:
        raise UserError(f"fragments={fragments!r}: expected a positive integer")
    trace = {training: _trace(model, training) for training in (True, False)}
    nodes = trace[False].nodes
    flops, shapes = _measure(model, trace[False], input_size)
    done = list(itertools.accumulate(flops))
    classifier = _classifier(model, trace, shapes.get(nodes[-1]))

    crossings = {
        name: index
        for name, index in trace[False].crossings.items()
        if name in trace[True].crossings and nodes[index] in shapes
    }
    body = next(done[i - 1] for i, node in enumerate(nodes) if node.target == classifier)
    candidates = _candidates(trace[False], crossings, done, body)
    if cuts is None:
        chosen = _balance(candidates, crossings, trace[False], done, fragments)
    else:
        chosen = _named(cuts, crossings, candidates, fragments)

    pieces = []
    for start, stop in itertools.pairwise([None, *chosen, None]):
        graphs = {training: traced.slice(start, stop) for training, traced in trace.items()}
        first = crossings[start] if start else 0
        last = crossings[stop] if stop else len(nodes) - 1
        title = f"{type(model).__name__}.{stop or classifier}"
        pieces.append(
            Fragment(
                name=stop or classifier,
                flops=done[last] - done[first],
                shape=shapes[nodes[last]],
                parameters=_parameters(model, graphs.values()),
                train=_compile(graphs[True], f"{title}.train"),
                eval=_compile(graphs[False], f"{title}.eval"),
            )
        )
    return Cutting(tuple(pieces), classifier)


class _Tracer(fx.Tracer):
    """Looks into every module it can; one that cannot be traced stays whole and runs as written."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = next(m.children(), None) is None
        return childless or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before, stack = set(self.graph.nodes), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.module_stack = stack
            # Attribute nodes stay: the tracer caches them for later uses.
            for node in reversed([n for n in self.graph.nodes if n not in before]):
                if node.op != "get_attr":
                    self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)

    def get_fresh_qualname(self, prefix: str) -> str:
        # Asked for only to store a constant on the user's model, which is not ours to change.
        raise fx.proxy.TraceError("it makes a constant tensor; register it as a buffer instead")


@dataclass(frozen=True)
class _Trace:
    """A traced model. ``crossings``: name -> index of a node after which only its value lives."""

    nodes: list[fx.Node]
    crossings: dict[str, int]

    def slice(self, start: str | None, stop: str | None) -> fx.Graph:
        """The nodes behind crossing ``start`` (None: the input) up to ``stop`` (None: the end)."""
        first = self.crossings[start] if start else 0
        last = self.crossings[stop] if stop else len(self.nodes) - 1
        graph = fx.Graph()
        copies = {self.nodes[first]: graph.placeholder("x")}

        def copy(node: fx.Node) -> fx.Node:
            # Attributes are read where they are used, also when an earlier fragment read them too.
            if node not in copies:
                copies[node] = graph.node_copy(node, copy)
            return copies[node]

        for node in self.nodes[first + 1 : last + 1]:
            copy(node)
        if stop:
            graph.output(copies[self.nodes[last]])
        return graph


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _trace(model: nn.Module, training: bool) -> _Trace:
    name = type(model).__name__
    try:
        with _mode(model, training):
            nodes = list(_without_options(model).nodes)
    except Exception as error:
        raise UserError(
            f"cannot trace {name}.forward to cut it: {error}; move what cannot be traced into a "
            "submodule, which then stays in one piece"
        ) from error
    inputs = [node.name for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise UserError(f"cannot cut {name}: expected forward(images), found arguments {inputs}")
    return _Trace(nodes, _crossings(nodes))


def _without_options(model: nn.Module) -> fx.Graph:
    """Trace with the default of every argument that has one, and without that argument."""
    arguments = inspect.signature(model.forward).parameters.values()
    options = {a.name: a.default for a in arguments if a.default is not a.empty}
    graph = _Tracer().trace(model, concrete_args=options or None)
    # What is left of an option is a placeholder and assertions on it.
    dead = {n for n in graph.nodes if n.op == "placeholder" and n.args}
    for node in graph.nodes:
        if not dead.isdisjoint(node.all_input_nodes):
            dead.add(node)
    for node in reversed(graph.nodes):
        if node in dead:
            graph.erase_node(node)
    return graph


def _crossings(nodes: list[fx.Node]) -> dict[str, int]:
    """Where one tensor alone flows on, under the outermost module path that ends there."""
    position = {node: index for index, node in enumerate(nodes)}
    ends: dict[str, int] = {}
    for index, node in enumerate(nodes):
        path = _path(node)
        for length in range(1, len(path) + 1):
            ends[".".join(path[:length])] = index
    names = {index: path for path, index in sorted(ends.items(), key=lambda item: -len(item[0]))}

    crossings: dict[str, int] = {}
    alive: set[fx.Node] = set()
    for index, node in enumerate(nodes[:-1]):
        alive = {value for value in alive if max(map(position.__getitem__, value.users)) > index}
        if node.users and node.op != "get_attr":
            alive.add(node)
        if alive == {node} and node.op != "placeholder":
            name = names.get(index, node.name)
            if name not in ends or ends[name] == index:
                crossings[name] = index
    return crossings


def _path(node: fx.Node) -> list[str]:
    """Module path of the code a node stands for; a called module counts as such code."""
    if node.op == "call_module":
        return str(node.target).split(".")
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].split(".") if stack else []


def _measure(
    model: nn.Module, trace: _Trace, input_size: Sequence[int]
) -> tuple[list[int], dict[fx.Node, tuple[int, ...]]]:
    """FLOPs per image of every node; shapes per image of those that give a batch of floats."""
    batch = 2  # tells a batch dimension from a dimension of length one
    flops: list[int] = []
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    class Meter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            before = counter.get_total_flops()
            value = super().run_node(n)
            flops.append((counter.get_total_flops() - before) // batch)
            floats = isinstance(value, Tensor) and value.is_floating_point()
            if floats and value.dim() > 1 and len(value) == batch:
                shapes[n] = tuple(value.shape[1:])
            return value

    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.zeros(batch, *input_size, dtype=like.dtype, device=like.device)
    # The fused attention kernels of the CPU are not in the counter's table; their parts are.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _mode(model, False),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            Meter(model, graph=trace.nodes[0].graph).run(images, enable_io_processing=False)
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} fails on images of input_size={tuple(input_size)}: {error}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return flops, shapes


def _classifier(model: nn.Module, trace: dict[bool, _Trace], logits: tuple[int, ...] | None) -> str:
    """Path of the layer whose rows are the classes, in both modes."""
    found = {_find_classifier(model, traced) for traced in trace.values()}
    path = found.pop()
    if path is None or found or logits != _rows(model, path):
        raise UserError(
            f"cannot find the classifier of {type(model).__name__}: expected logits (B, classes) "
            "from a final nn.Linear or 1x1 nn.Conv2d, in train and eval mode"
        )
    return path


def _rows(model: nn.Module, path: str) -> tuple[int, ...]:
    return tuple(model.get_submodule(path).get_parameter("weight").shape[:1])


def _find_classifier(model: nn.Module, trace: _Trace) -> str | None:
    """Walk back from the logits, through what has no weights, to the linear layer or 1x1 conv."""
    node = trace.nodes[-1]
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


def _candidates(
    trace: _Trace, crossings: dict[str, int], done: list[int], body: int
) -> dict[str, tuple[bool, int]]:
    """Crossings worth choosing among, with their rank (lower: more of a module boundary).

    Between two of them lie some FLOPs, and so they do before the first and between the last and
    the classifier, at ``body`` FLOPs. Among those with the same FLOPs behind them (a convolution,
    its norm, its activation) the best module boundary is kept, the last one in case of doubt.
    """
    best: dict[int, tuple[tuple[bool, int], str]] = {}
    for name, index in crossings.items():
        following = next(n for n in trace.nodes[index + 1 :] if n.op != "get_attr")
        here, there = _owner(trace.nodes[index]), _owner(following)
        common = sum(itertools.accumulate(map(operator.eq, here, there), operator.and_))
        rank = (here == there, common)
        if 0 < done[index] < body and rank <= best.get(done[index], (rank, ""))[0]:
            best[done[index]] = (rank, name)
    return {name: rank for rank, name in best.values()}


def _owner(node: fx.Node) -> list[str]:
    """Path of the module whose forward runs the node."""
    return _path(node)[:-1] if node.op == "call_module" else _path(node)


def _balance(
    candidates: dict[str, tuple[bool, int]],
    crossings: dict[str, int],
    trace: _Trace,
    done: list[int],
    fragments: int,
) -> list[str]:
    names = sorted(candidates, key=crossings.__getitem__)
    if len(names) < fragments - 1:
        raise UserError(
            f"fragments={fragments} needs {fragments - 1} cuts, but only {len(names)} are "
            f"possible: {', '.join(names)}"
        )
    chosen: list[str] = []
    position = 0
    for number in range(1, fragments):
        offset = {n: abs(done[crossings[n]] / done[-1] * fragments - number) for n in names}
        allowed = names[position : len(names) - (fragments - 1 - number)]
        window = [name for name in allowed if offset[name] <= 0.5]
        if window:
            pick = min(window, key=lambda name: (candidates[name], offset[name]))
        else:
            pick = min(allowed, key=offset.__getitem__)
        chosen.append(pick)
        position = names.index(pick) + 1
    return chosen


def _named(
    cuts: Sequence[str], crossings: dict[str, int], candidates: Iterable[str], fragments: int
) -> list[str]:
    if isinstance(cuts, str) or len(cuts) != fragments - 1:
        raise UserError(f"cuts={cuts!r}: expected {fragments - 1} names for {fragments} fragments")
    for name in cuts:
        if name not in crossings:
            possible = sorted(candidates, key=crossings.__getitem__)
            raise UserError(f"cuts: cannot cut after {name!r}; possible: {', '.join(possible)}")
    if any(crossings[a] >= crossings[b] for a, b in itertools.pairwise(cuts)):
        raise UserError(f"cuts={list(cuts)}: expected each once, in the order of the data")
    return list(cuts)


def _parameters(model: nn.Module, graphs: Iterable[fx.Graph]) -> frozenset[str]:
    """Names of the parameters that some of the graphs read."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    targets = {
        str(node.target)
        for graph in graphs
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    return frozenset(
        name for name in known if any(f"{name}.".startswith(f"{target}.") for target in targets)
    )


def _compile(graph: fx.Graph, title: str) -> Forward:
    """The graph as a Python function of (model, x), whose source shows in tracebacks."""
    code = graph.python_code("self")
    file = f"<edufast {title}>"
    linecache.cache[file] = (len(code.src), None, code.src.splitlines(keepends=True), file)
    scope = dict(code.globals)
    exec(compile(code.src, file, "exec", dont_inherit=True), scope)
    return scope["forward"]
