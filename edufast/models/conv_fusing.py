"""Convolution, bias, residual sum and ReLU as one call of cuDNN, for inference on a GPU."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edufast.models.tracing import Forward, compile_graph, trace
from edufast.utils._torch_private import is_hooked
from edufast.utils.errors import UserError, one_line

_DEVICES = ("cuda",)
_DTYPES = (torch.bfloat16, torch.float16)  # float32 would have TF32 rounding of its own
_RELUS = {"relu", "relu_", torch.relu, torch.relu_, functional.relu, functional.relu_}
_SUMS = {"add", operator.add, torch.add}
_SUMS_IN_PLACE = {"add_", operator.iadd}  # x += y is traced as x + y
_ALIKE = 0.05  # difference of logits by rounding, relative to the largest of them


def fused(model: nn.Module, name: str) -> Callable[[Tensor], object]:
    """What runs ``model`` with as few calls as cuDNN has for its convolutions.

    Convolutions followed by a ReLU, or by a sum and a ReLU, become one call each, of the model's
    own weights, where nothing else depends on what is between. The model itself stays as it is; it
    is returned if there is nothing to do: on another device, in another type than bfloat16 or
    float16, with hooks, or if torch.fx cannot trace it.

    The first call runs the model, too. If cuDNN refuses, or if the logits differ by more than
    rounding, a warning says so, and the model runs from then on.

    Args:
        model: of one image tensor, in eval mode, where it is to run; folded, if it has batch norm.
        name: of the model, in the warning.
    """
    weights = next(model.parameters(), torch.empty(0))
    if weights.device.type not in _DEVICES or weights.dtype not in _DTYPES:
        return model
    if any(map(is_hooked, model.modules())):
        return model
    try:
        nodes = trace(model, training=False).nodes
    except UserError:
        return model
    graph = nodes[0].graph
    if not _fuse(graph, dict(model.named_modules())):
        return model
    return _Fused(model, compile_graph(graph, f"{name} fused"), name)


class _Fused:
    """See :func:`fused`."""

    def __init__(self, model: nn.Module, forward: Forward, name: str) -> None:
        self._model, self._name = model, name
        self._forward: Forward | None = forward
        self._trusted = False  # not before its logits have been compared

    def __call__(self, images: Tensor) -> object:
        if self._forward is None:
            return self._model(images)
        own = images if self._trusted else images.clone()  # which a model may write into
        try:
            output, why = self._forward(self._model, own), ""
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            output, why = None, one_line(error)
        if self._trusted and not why:
            return output
        expected = self._model(images)  # if this fails, too, the images are at fault
        if not why and not _alike(output, expected):
            why = "the logits would differ"
        if why:
            self._forward = None
            warnings.warn(
                f"{self._name} runs without fused convolutions, which takes longer: {why}",
                stacklevel=2,
            )
            return expected
        self._trusted = True
        return output  # a training that is resumed gets the same bits as one that went on


def _alike(output: Any, expected: Any) -> bool:
    found, right = (getattr(given, "logits", given) for given in (output, expected))
    if not isinstance(found, Tensor) or not isinstance(right, Tensor):
        return False
    if found.shape != right.shape or found.dtype != right.dtype:
        return False
    if not right.numel():
        return True
    off = (found - right).float().abs().max()
    return bool(off <= _ALIKE * right.float().abs().max())


def _fuse(graph: fx.Graph, modules: dict[str, nn.Module]) -> int:
    """Rewrites the graph; how many calls of :func:`_conv_relu` it has then."""

    def of(node: Any) -> nn.Module | None:
        called = isinstance(node, fx.Node) and node.op == "call_module"
        return modules[str(node.target)] if called else None

    for node in list(graph.nodes):
        if type(of(node)) is nn.Identity and _operands(node, 1):  # in place of a folded norm
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    count = 0
    for relu in list(graph.nodes):
        if not (relu.target in _RELUS if _is_function(relu) else type(of(relu)) is nn.ReLU):
            continue
        source: Any = relu.args[0] if relu.args else None
        conv: Any = source
        residual, in_place = None, False
        if isinstance(source, fx.Node) and _is_function(source):
            in_place = source.target in _SUMS_IN_PLACE
            if not (in_place or source.target in _SUMS) or not _is_link(source, 2):
                continue
            # A sum in place is that of its first operand. Of two convolutions the later one: all
            # that it is added to is known by then.
            summands = source.args[:1] if in_place else source.args
            able: list[Any] = [node for node in summands if _fits(node, of(node))]
            if not able or source.args[0] is source.args[1]:
                continue
            conv = max(able)
            residual = source.args[1 if conv is source.args[0] else 0]
        if not _fits(conv, of(conv)) or not _stays(conv, relu, source, of):
            continue
        layer: Any = of(conv)
        with graph.inserting_before(relu):
            weight = graph.get_attr(f"{conv.target}.weight")
            bias = None if layer.bias is None else graph.get_attr(f"{conv.target}.bias")
            geometry = layer.stride, layer.padding, layer.dilation
            call = graph.call_function(
                _conv_relu, (conv.args[0], weight, bias, residual, in_place, *geometry)
            )
        relu.replace_all_uses_with(call)
        for node in dict.fromkeys((relu, source, conv)):
            graph.erase_node(node)
        count += 1
    return count


def _is_function(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method")


def _operands(node: fx.Node, count: int) -> bool:
    """Whether the node is called with ``count`` results of others, and nothing else."""
    given = all(isinstance(argument, fx.Node) for argument in node.args)
    return given and len(node.args) == count and not node.kwargs


def _is_link(node: fx.Node, operands: int) -> bool:
    """Whether it may disappear in a chain: nothing else reads its result."""
    return _operands(node, operands) and len(node.users) == 1


def _fits(node: Any, layer: nn.Module | None) -> bool:
    # Exact types: a subclass may do more. In groups cuDNN has no such call for every size.
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and _is_link(node, 1)
    )


def _stays(
    conv: fx.Node, relu: fx.Node, add: fx.Node, of: Callable[[fx.Node], nn.Module | None]
) -> bool:
    """Whether the convolution may be called as late as the ReLU: nothing that runs in between may
    write into what it reads."""
    node = conv.next
    while node is not relu:
        if node is not add and _may_write(node, of(node)):
            return False
        node = node.next
    return True


def _may_write(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        known = type(module).__module__.startswith("torch.nn.modules.")
        whole = next(module.children(), None) is None  # else it holds what could not be traced
        return not (known and whole) or bool(getattr(module, "inplace", False))
    if not _is_function(node) or node.target is _conv_relu:
        return False
    if any(value is True for value in node.args) or {"inplace", "out"} & node.kwargs.keys():
        return True
    if node.op == "call_method":
        return str(node.target).endswith("_")
    name, home = (str(getattr(node.target, key, "")) for key in ("__name__", "__module__"))
    if home == "_operator":
        return name.startswith("i") or name == "setitem"
    custom = home.startswith(("torch.ops", "torch._ops"))
    return custom or name.endswith("_") or not home.startswith(("torch", "builtins"))


def _conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_place: bool,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """ReLU of a convolution, or of its sum with ``residual``; with ``in_place`` the sum keeps the
    convolution's dtype."""
    shape = _output_shape(x, weight, stride, padding, dilation) if x.dim() == 4 else ()
    if not _is_for_cudnn(x, weight, bias, residual, shape):
        y = torch.conv2d(x, weight, bias, stride, padding, dilation)
        if residual is not None:
            y = y.add_(residual) if in_place else y + residual
        return torch.relu_(y)
    geometry = list(stride), list(padding), list(dilation), 1
    result: Tensor
    if residual is None:
        result = torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *geometry)
    else:
        residual = residual.contiguous(memory_format=torch.channels_last)
        call = torch.ops.aten.cudnn_convolution_add_relu
        result = call(x, weight, residual, 1.0, bias, *geometry)
    return result


def _is_for_cudnn(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Any, shape: tuple[int, ...]
) -> bool:
    """Whether cuDNN's call gives what the single ones do: no broadcasting, no other types. It knows
    32-bit offsets only, and ignores a wish for deterministic algorithms."""
    others = [t for t in (weight, bias, residual) if t is not None]
    return (
        x.dtype in _DTYPES
        and bool(shape)
        and all(isinstance(t, Tensor) and t.dtype == x.dtype for t in others)
        and all(t.device == x.device for t in others)
        and x.device.type in _DEVICES
        and (residual is None or tuple(residual.shape) == shape)
        and max(x.numel(), torch.Size(shape).numel()) < 2**31
        and torch.backends.cudnn.enabled
        and not torch.backends.cudnn.deterministic
        and not torch.are_deterministic_algorithms_enabled()
    )


def _output_shape(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, ...]:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    lengths = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return (len(x), len(weight), *lengths)
