"""Tracing a model with torch.fx, and slicing the trace where a single tensor flows.

Traced code runs with the *original* model as ``self``, so weights, buffers, devices and modes are
always the model's. Tracing does not change the model.
"""

from __future__ import annotations

import copy
import linecache
import operator
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from edufast.utils.errors import UserError, one_line
from edufast.utils.flops import counted_flops

Forward = Callable[[nn.Module, Tensor], Tensor]

# torch.fx replaces methods of nn.Module, for all threads, while it traces.
_ONE_AT_A_TIME = threading.RLock()
_BATCHES = (1, 2)  # batch sizes; what differs between them depends on the batch


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        nodes: in order of execution.
        crossings: name -> index of a node whose value is the only one needed by later nodes.
        sizes: nodes that are sizes, such as the height of a feature map, and their values; None:
            the batch size. They need not cross a cut.
    """

    nodes: list[fx.Node]
    crossings: dict[str, int]
    sizes: dict[fx.Node, Any]

    def slice(self, start: str | None, stop: str | None) -> fx.Graph:
        """The nodes after crossing ``start`` (None: the input) up to ``stop`` (None: the end)."""
        first = self.crossings[start] if start else 0
        last = self.crossings[stop] if stop else len(self.nodes) - 1
        graph = fx.Graph()
        images = graph.placeholder("x")
        copies: dict[fx.Node, Any] = {self.nodes[first]: images}
        before = set(self.nodes[:first])

        def copy(node: fx.Node) -> Any:
            # Attributes are read where they are used, even if an earlier fragment reads them too.
            if node not in copies and node in before and node in self.sizes:
                size = self.sizes[node]
                copies[node] = graph.call_method("size", (images, 0)) if size is None else size
            elif node not in copies:
                copies[node] = graph.node_copy(node, copy)
            return copies[node]

        for node in self.nodes[first + 1 : last + 1]:
            copy(node)
        if stop:
            graph.output(copies[self.nodes[last]])
        return graph


def try_out(model: nn.Module, input_size: Sequence[int]) -> None:
    """Run the model once, in eval mode, on an image of ``input_size``.

    Raises:
        UserError: the model fails.
    """
    try:
        with _borrowed(model, False), torch.no_grad():
            model(_images(model, 1, input_size))
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} fails on images of input_size={tuple(input_size)}: "
            f"{one_line(error)}"
        ) from error


def are_probabilities(answers: Tensor) -> bool:
    """Whether answers (B, C) to B images are probabilities, as after a softmax, and no logits."""
    sums = answers.sum(1)
    return bool((answers >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-2))


def gives_probabilities(model: nn.Module, input_size: Sequence[int]) -> bool:
    """Whether a model that can be traced ends in a softmax: its answer to a black image tells."""
    with _borrowed(model, False), torch.no_grad():
        answers = model(_images(model, 2, input_size))
    answers = getattr(answers, "logits", answers)
    return isinstance(answers, Tensor) and answers.dim() == 2 and are_probabilities(answers)


def to_faster_layout(model: nn.Module, input_size: Sequence[int]) -> bool:
    """Put the weights of ``model`` in channels_last, in which convolutions are faster, or back if
    it fails on images like that: many models call ``view(len(x), -1)`` on a feature map.

    Returns:
        Whether it stays in channels_last. If not, it needs contiguous images.
    """
    model.to(memory_format=torch.channels_last)
    images = _images(model, 1, input_size)
    if images.dim() == 4:
        images = images.to(memory_format=torch.channels_last)
    try:
        with _borrowed(model, False), torch.no_grad():
            model(images)
    except Exception:  # on others as well, perhaps: whoever runs it then says so
        model.to(memory_format=torch.contiguous_format)
        return False
    return True


def trace(model: nn.Module, training: bool, input_size: Sequence[int] | None = None) -> Trace:
    """Trace a model of one image tensor in train or eval mode.

    Control flow that depends on sizes or types is followed as for images of ``input_size``, if that
    is given and the batch size makes no difference.

    Raises:
        UserError: the model's own forward cannot be traced, or needs more than one argument.
    """
    name = type(model).__name__
    try:
        with _ONE_AT_A_TIME, _borrowed(model, training):
            tracer = _Tracer(model, input_size)
            nodes = list(tracer.trace(model).nodes)
            _refuse_assigned(model)
            sizes = tracer.sizes()
    except Exception as error:
        raise UserError(
            f"cannot trace {name}.forward to cut it: {one_line(error)}; move what cannot be traced "
            "into a submodule, which then stays in one piece"
        ) from error
    return Trace(nodes, _crossings(nodes, sizes), sizes)


def traced_module(model: nn.Module) -> fx.GraphModule:
    """The model's own code, as one graph; for a module of ours, which can be traced."""
    with _ONE_AT_A_TIME:
        graph = _Tracer(model, None).trace(model)
    return fx.GraphModule(model, graph, type(model).__name__)


class _Tracer(fx.Tracer):
    """Traces into modules where possible; one that cannot be traced is called as a whole."""

    # Changes that forward makes to a buffer (a counter of batches) belong in the fragment.
    proxy_buffer_attributes = True

    def __init__(self, model: nn.Module, input_size: Sequence[int] | None) -> None:
        super().__init__()
        self._model = model
        self._input_size = input_size
        self._examples: list[_Example] = []  # created when first needed
        self._running = False  # whether an example is running the original modules
        self._thread = threading.get_ident()

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        # With images only; other arguments have their defaults.
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def create_arg(self, a: Any) -> Any:
        # The output of a Hugging Face model is a dictionary.
        return super().create_arg(a["logits"] if isinstance(a, dict) and "logits" in a else a)

    def to_bool(self, obj: fx.Proxy) -> bool:
        values = self._values(obj.node)
        answers = {bool(value) for value in values if isinstance(value, (bool, int))}
        return answers.pop() if len(answers) == 1 else super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        values = self._values(obj.node)
        lengths = {len(value) for value in values if isinstance(value, (tuple, list))}
        return (
            map(obj.__getitem__, range(lengths.pop())) if len(lengths) == 1 else super().iter(obj)
        )

    def sizes(self) -> dict[fx.Node, Any]:
        """``Trace.sizes``."""
        found: dict[fx.Node, Any] = {}
        suspects: set[fx.Node] = set()  # nodes that may be sizes; the others are tensors
        for node in self.graph.nodes:
            inputs = node.all_input_nodes
            indexed = node.target is operator.getitem and isinstance(node.args[1], int)
            source = indexed or node.target == "size" or node.args[1:] == ("shape",)
            derived = inputs and suspects.issuperset(inputs)
            if node.op in ("call_function", "call_method") and (source or derived):
                suspects.add(node)
            values = self._values(node) if node in suspects else []
            if values and all(map(_is_size, values)):
                if values == list(_BATCHES):
                    found[node] = None
                elif values[0] == values[1]:
                    found[node] = values[0]
        return found

    def _values(self, node: fx.Node) -> list[Any]:
        """The node's value for a batch of one image and of two; [] if unknown."""
        if self._input_size is None:
            return []
        self._running = True
        try:
            if not self._examples:
                sizes = self._input_size
                self._examples = [_Example(self._model, batch, sizes) for batch in _BATCHES]
            return [example.value(node) for example in self._examples]
        except Exception:
            self._input_size = None  # do not try again
            return []
        finally:
            self._running = False

    def _bypassed(self) -> bool:
        """Whether a module is not being traced: by an example, or in another thread."""
        return self._running or threading.get_ident() != self._thread

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._bypassed():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = next(m.children(), None) is None
        return childless or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._bypassed():
            return forward(*args, **kwargs)
        before, stack = set(self.graph.nodes), self.module_stack.copy()
        buffers = m._buffers.copy()
        try:
            output = super().call_module(m, forward, args, kwargs)
            _refuse_assigned(m)
            return output
        except Exception:
            self.module_stack = stack
            m._buffers.update(buffers)
            # Attribute nodes stay: the tracer caches them for later uses.
            for node in reversed([n for n in self.graph.nodes if n not in before]):
                if node.op != "get_attr":
                    self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)

    def get_fresh_qualname(self, prefix: str) -> str:
        # Called only to store a constant tensor on the user's model, which must not change.
        raise fx.proxy.TraceError("it makes a constant tensor; register it as a buffer instead")


def _refuse_assigned(module: nn.Module) -> None:
    """A graph holds what is done to a buffer, but not that another takes its place."""
    for name, buffer in module._buffers.items():
        if isinstance(buffer, fx.Proxy):
            raise fx.proxy.TraceError(f"it assigns its buffer {name!r}; change it in place")


class _Example(fx.Interpreter):
    """Runs a graph while it is being built, on tensors without values."""

    def __init__(self, model: nn.Module, batch: int, input_size: Sequence[int]) -> None:
        self.mode = FakeTensorMode()
        with FakeCopyMode(self.mode):  # forward must not change the model's own buffers
            copied = copy.deepcopy(model)
        super().__init__(copied, garbage_collect_values=False, graph=fx.Graph())
        with self.mode:
            self.images = _images(copied, batch, input_size)

    def value(self, node: fx.Node) -> Any:
        with self.mode, torch.no_grad():
            for known in node.graph.nodes:
                if known not in self.env:
                    first = known.op == "placeholder"
                    self.env[known] = self.images if first else self.run_node(known)
        return self.env[node]


def _is_size(value: Any) -> bool:
    sizes = isinstance(value, (tuple, list)) and all(map(_is_size, value))
    return sizes or isinstance(value, int)


def _images(model: nn.Module, batch: int, input_size: Sequence[int]) -> Tensor:
    """Black images with the dtype and device of the model's weights."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, *input_size, dtype=like.dtype, device=like.device)


def _crossings(nodes: list[fx.Node], sizes: Collection[fx.Node]) -> dict[str, int]:
    """See ``Trace.crossings``; named after the outermost module that ends there."""
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
        if node.users and node.op != "get_attr" and node not in sizes:
            alive.add(node)
        if alive == {node} and node.op != "placeholder":
            name = names.get(index, node.name)
            if name not in ends or ends[name] == index:
                crossings[name] = index
    return crossings


def module_path(node: fx.Node) -> list[str]:
    """Path of the module whose code a node belongs to; for a called module, its own path."""
    if node.op == "call_module":
        return str(node.target).split(".")
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].split(".") if stack else []


def measure(
    model: nn.Module, traced: Trace, input_size: Sequence[int]
) -> tuple[list[int], dict[fx.Node, tuple[int, ...]]]:
    """FLOPs per image of each node; shapes per image of those that are a batch of floats."""
    batch = 2  # so that a batch dimension differs from a dimension of length one
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

    images = _images(model, batch, input_size)
    with _borrowed(model, False), torch.no_grad(), counted_flops() as counter:
        Meter(model, graph=traced.nodes[0].graph).run(images, enable_io_processing=False)
    return flops, shapes


def compile_graph(graph: fx.Graph, title: str) -> Forward:
    """The graph as a Python function of (model, x), whose source is shown in tracebacks."""
    code = graph.python_code("self")
    file = f"<edufast {title}>"
    linecache.cache[file] = (len(code.src), None, code.src.splitlines(keepends=True), file)
    scope = dict(code.globals)
    exec(compile(code.src, file, "exec", dont_inherit=True), scope)
    return scope["forward"]


@contextmanager
def _borrowed(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in train or eval mode; all its attributes are restored afterwards.

    Not only the modes, since a forward may store what it computes, which is a proxy when traced.
    """
    before = {module: (vars(module).copy(), module._buffers.copy()) for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, (attributes, buffers) in before.items():
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.update(buffers)
