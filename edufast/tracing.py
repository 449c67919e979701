"""A model as straight-line code: traced with torch.fx, sliced where a single tensor flows.

Traced code runs with the *original* model as ``self``: weights, buffers, devices and modes have one
home, the model, and tracing changes nothing about it.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator, Sequence
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
class Trace:
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


def trace(model: nn.Module, training: bool) -> Trace:
    """Trace a model of one image tensor in train or eval mode.

    Raises:
        UserError: its own forward cannot be traced, or takes more than one argument.
    """
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
    return Trace(nodes, _crossings(nodes))


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


class _Tracer(fx.Tracer):
    """Looks into every module it can; one that cannot be traced stays whole and runs as written."""

    # What forward does to a buffer (a counter of batches) belongs in the fragment.
    proxy_buffer_attributes = True

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


def _crossings(nodes: list[fx.Node]) -> dict[str, int]:
    """Where one tensor alone flows on, under the outermost module path that ends there."""
    position = {node: index for index, node in enumerate(nodes)}
    ends: dict[str, int] = {}
    for index, node in enumerate(nodes):
        path = module_path(node)
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


def module_path(node: fx.Node) -> list[str]:
    """Module path of the code a node stands for; a called module counts as such code."""
    if node.op == "call_module":
        return str(node.target).split(".")
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].split(".") if stack else []


def measure(
    model: nn.Module, traced: Trace, input_size: Sequence[int]
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
            Meter(model, graph=traced.nodes[0].graph).run(images, enable_io_processing=False)
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} fails on images of input_size={tuple(input_size)}: {error}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return flops, shapes


def compile_graph(graph: fx.Graph, title: str) -> Forward:
    """The graph as a Python function of (model, x), whose source shows in tracebacks."""
    code = graph.python_code("self")
    file = f"<edufast {title}>"
    linecache.cache[file] = (len(code.src), None, code.src.splitlines(keepends=True), file)
    scope = dict(code.globals)
    exec(compile(code.src, file, "exec", dont_inherit=True), scope)
    return scope["forward"]


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
