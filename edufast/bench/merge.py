"""merge_ compared with torch._foreach_*, a Python loop, timm's moving average and plain copies."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from edufast.bench.benchmark import Benchmark, Report
from edufast.bench.contests import contests_plot, contests_table
from edufast.bench.timing import Candidate, buffer_sets, last_level_cache, measure
from edufast.models.zoo import create_model
from edufast.ops import MergePlan, merge_

DECAY = 0.999
MODELS = {
    "resnet20": "resnet20",
    "resnet50": "timm/resnet50",
    "vit_base": "timm/vit_base_patch16_224",
    "convnext_large": "timm/convnext_large",
}
MANY_SMALL = "1000 x 64"
FLOOR_BYTES = 512 << 20  # the longest copy measured; longer ones are extrapolated from it


@dataclass(frozen=True)
class Case:
    """One case of the benchmark.

    Attributes:
        name: of a model, or ``MANY_SMALL``.
        lists: number of source lists that are averaged.
        keep: 0, or the decay of a moving average of one source list.
        warm: True: all tensors are in the cache, as if nothing happened between two calls; False:
            none are. A training loop is somewhere in between.
    """

    name: str
    lists: int
    keep: float
    warm: bool

    @property
    def operation(self) -> str:
        """The operation's name in tables."""
        if self.keep:
            return "ema"
        return "copy" if self.lists == 1 else f"average of {self.lists}"


def shapes(name: str) -> list[torch.Size]:
    """Shapes of a model's parameters; the model is built without allocating them."""
    if name == MANY_SMALL:
        return [torch.Size([64])] * 1000
    with torch.device("meta"):
        return [p.shape for p in create_model(MODELS[name], 1000).parameters()]


def grid(quick: bool) -> list[Case]:
    """The cases to measure."""
    small = (MANY_SMALL, "resnet20")  # the lists that fit into a cache
    large = ("resnet50",) if quick else ("resnet50", "vit_base", "convnext_large")
    operations = ((1, 0.0), (1, DECAY), (2, 0.0), (4, 0.0))
    return [
        Case(name, lists, keep, warm)
        for names, warm in ((small, True), (small + large, False))
        for name in names
        for lists, keep in operations
    ]


def traffic(case: Case, elements: int) -> int:
    """Bytes to read and write at least, in fp32."""
    return 4 * elements * (case.lists + 1 + (case.keep != 0))


# --- alternatives, as one would write them in PyTorch -------------------------------------------


def foreach(case: Case, targets: list[Tensor], lists: list[list[Tensor]]) -> None:
    """With PyTorch's multi-tensor operators, which its optimisers use."""
    if case.keep:
        torch._foreach_lerp_(targets, lists[0], 1 - case.keep)
        return
    torch._foreach_copy_(targets, lists[0])
    if case.lists > 1:
        torch._foreach_mul_(targets, 1 / case.lists)
        for sources in lists[1:]:
            torch._foreach_add_(targets, sources, alpha=1 / case.lists)


def loop(case: Case, targets: list[Tensor], lists: list[list[Tensor]]) -> None:
    """Tensor by tensor."""
    for target, *sources in zip(targets, *lists, strict=True):
        if case.keep:
            target.lerp_(sources[0], 1 - case.keep)
        elif case.lists == 1:
            target.copy_(sources[0])
        else:
            torch.mul(sources[0], 1 / case.lists, out=target)
            for source in sources[1:]:
                target.add_(source, alpha=1 / case.lists)


def timm_ema(sources: list[Tensor]) -> Any:
    """timm's ModelEmaV3 of a module with these parameters, and the module."""
    from timm.utils import ModelEmaV3

    module = nn.ParameterList(nn.Parameter(s, requires_grad=False) for s in sources)
    return ModelEmaV3(module, decay=DECAY), module


# --- measuring ----------------------------------------------------------------------------------


def candidates(case: Case, sets: int, device: str) -> dict[str, Candidate]:
    """Functions that merge buffer set i, by implementation."""
    sizes = shapes(case.name)
    targets = [[torch.rand(s, device=device) for s in sizes] for _ in range(sets)]
    lists = [
        [[torch.rand(s, device=device) for s in sizes] for _ in range(case.lists)]
        for _ in range(sets)
    ]
    plans = [MergePlan(t, s) for t, s in zip(targets, lists, strict=True)]
    found: dict[str, Candidate] = {
        "merge_": lambda i: merge_(targets[i], lists[i], keep=case.keep),
        "MergePlan": lambda i: plans[i](keep=case.keep),
        "foreach": lambda i: foreach(case, targets[i], lists[i]),
        "loop": lambda i: loop(case, targets[i], lists[i]),
    }
    if case.keep and importlib.util.find_spec("timm"):
        averages = [timm_ema(s[0]) for s in lists]
        found["timm"] = lambda i: averages[i][0].update(averages[i][1])
    return found


def copy_floors(bytes_: int, sets: int, device: str) -> tuple[dict[str, Candidate], float]:
    """Copies of as many bytes, half read and half written, and the factor to scale their times by.

    "copy" is torch's ``copy_``. On a CPU it reads the lines that it overwrites, three transfers
    for two. "streaming copy" is that of ``MergePlan`` for one tensor: where it is long, its stores
    go past the caches, and two transfers remain.
    """
    half = min(bytes_, FLOOR_BYTES) // 8  # in float32
    buffers = [torch.ones(2, half, device=device) for _ in range(sets)]
    plans = [MergePlan([target], [source]) for target, source in buffers]
    floors: dict[str, Candidate] = {
        "copy": lambda i: buffers[i][0].copy_(buffers[i][1]),
        "streaming copy": lambda i: plans[i](),
    }
    return floors, bytes_ / (8 * half)


def measurer(quick: bool, device: str, _: Report) -> Callable[[Case], dict[str, Any]]:
    """A function that measures a case; times in seconds."""
    return partial(_measure_case, device=device, seconds=0.4 if quick else 1.0)


@torch.no_grad()
def _measure_case(case: Case, *, device: str, seconds: float) -> dict[str, Any]:
    sizes = shapes(case.name)
    elements = sum(s.numel() for s in sizes)
    bytes_ = traffic(case, elements)
    # Lists much larger than the cache evict themselves from it.
    alone = case.warm or bytes_ > 4 * last_level_cache(device)
    sets = 1 if alone else buffer_sets(bytes_, device)
    floors, scale = copy_floors(bytes_, sets, device)
    implementations = candidates(case, sets, device) | floors
    timings = measure(implementations, device=device, sets=sets, seconds=seconds)
    copy, streaming_copy = (timings.pop(name).median * scale for name in floors)
    return {
        "tensors": len(sizes),
        "elements": elements,
        "bytes": bytes_,
        "copy": copy,
        "streaming_copy": streaming_copy,
        "results": {
            name: {
                **asdict(timing),
                "speedup_over_foreach": timings["foreach"].median / timing.median,
                "speedup_over_loop": timings["loop"].median / timing.median,
                "copy_bandwidth": copy / timing.median,
                "streaming_copy_bandwidth": streaming_copy / timing.median,
            }
            for name, timing in timings.items()
        },
    }


# --- showing ------------------------------------------------------------------------------------


def title(result: dict[str, Any]) -> str:
    """Of a contest."""
    warmth = "warm" if result["warm"] else "cold"
    return f"{result['name']}, {warmth}, {result['operation']}"


def table(results: Sequence[dict[str, Any]]) -> Table:
    """A line for every case and implementation."""
    columns = {
        "x\nforeach": "{speedup_over_foreach:.2f}".format_map,
        "x\nloop": "{speedup_over_loop:.2f}".format_map,
        "of\ncopies": "{copy_bandwidth:.0%} / {streaming_copy_bandwidth:.0%}".format_map,
    }
    return contests_table("merge_, fp32", "parameters, operation", results, title, columns)


NOTE = (
    "of copies: bandwidth relative to copies of as many bytes in one piece, measured in this run: "
    "copy_ / stores that go past the caches."
)
BENCHMARK = Benchmark(
    "merge",
    "Merging lists of parameters",
    "Bandwidth as a share of a copy's whose stores go past the caches.",
    rivals=("foreach", "loop", "timm"),
    cases=lambda quick, _: grid(quick),
    known=lambda case: {**asdict(case), "operation": case.operation},
    title=title,
    measurer=measurer,
    shown=lambda results: [table(results), NOTE],
    illustrate=lambda folder, _, results: contests_plot(
        folder / "merge.png",
        results,
        title,
        "streaming_copy_bandwidth",
        "share of the streaming copy's bandwidth",
    ),
)
