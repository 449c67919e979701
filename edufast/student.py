"""The student: a model taught fragment by fragment, class by class, and given back whole."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edufast.cutting import Fragment, cut
from edufast.heads import Order, ReferenceHead, channels, check_order, head_flops


class Student(nn.Module):
    """A classifier that grows by fragments and by classes (education distillation).

    The model stays the one home of its weights; fragments are code that runs on it. While some are
    missing, a :class:`ReferenceHead` closes the student; afterwards the model's own classifier
    does. A new student has nothing: call :meth:`grow`.

    Args:
        model: maps (B, *input_size) to logits (B, C) with a final ``nn.Linear`` or 1x1
            ``nn.Conv2d``. The student owns it from now on.
        grades: number of fragments.
        input_size: shape of one image.
        cuts: ``grades - 1`` module paths such as ``"layer2"`` after which to cut; None: stages of
            about equal FLOPs, see :func:`edufast.cutting.cut`.
        head: order of the reference head, ``"pool_first"`` or ``"paper"``.
        class_order: permutation of ``range(C)``: logit j stands for class ``class_order[j]``, so
            that the classes taught so far are always the first columns. None: the identity.
        seed: from it and the stage (fragments, classes) come the weights of new heads and rows.

    Raises:
        UserError: the model cannot be cut as asked.
        ValueError: ``head`` or ``class_order`` is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        grades: int = 3,
        *,
        input_size: Sequence[int] = (3, 32, 32),
        cuts: Sequence[str] | None = None,
        head: Order = "pool_first",
        class_order: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_order(head)
        self.cutting = cut(model, grades, input_size=input_size, cuts=cuts)
        self.model = model
        self.head: ReferenceHead | None = None
        self.head_order: Order = head
        self.input_size = tuple(input_size)
        self.seed = seed
        self.grown = 0  # fragments that exist
        self.classes = 0  # width of the logits
        self.class_order = tuple(range(self.num_classes) if class_order is None else class_order)
        if sorted(self.class_order) != list(range(self.num_classes)):
            raise ValueError(
                f"class_order={self.class_order}: expected a permutation of "
                f"range({self.num_classes})"
            )
        _permute_rows(self.classifier, self.class_order)

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """All fragments, grown or not: their names, FLOPs and output shapes."""
        return self.cutting.fragments

    @property
    def classifier(self) -> nn.Linear:
        """The model's last layer; a 1x1 ``nn.Conv2d`` has the same weight but for two axes."""
        return cast(nn.Linear, self.model.get_submodule(self.cutting.classifier))

    @property
    def num_classes(self) -> int:
        """Classes of the finished student."""
        return self.classifier.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, *input_size) to logits (B, classes) in curriculum order.

        Raises:
            RuntimeError: nothing has grown yet.
        """
        if self.grown == 0:
            raise RuntimeError("nothing has grown yet: call grow(fragments=1, classes=...) first")
        for fragment in self.fragments[: self.grown]:
            x = fragment(self.model, x)
        return x[:, : self.classes] if self.head is None else self.head(x)

    def grow(
        self,
        *,
        fragments: int,
        classes: int,
        optimizer: Optimizer | None = None,
        keep_rows: bool = False,
        keep_state: bool = True,
    ) -> None:
        """Let the first ``fragments`` fragments exist and the logits be ``classes`` wide.

        More fragments get a new head, or the model's own classifier once all exist; more classes
        alone get new rows in the head at hand. New weights are drawn as PyTorch's layers draw them,
        from a generator of their own seeded by (seed, fragments, classes). Rows of the model's
        classifier are left as they are, so those of classes not yet taught see weight decay only.

        Args:
            fragments: from what exists up to all.
            classes: from what exists up to all.
            optimizer: updated in place. Parameters that ceased to exist leave it, new ones join its
                last group (a carried linear takes the place of the old one), and within a group
                the order is that of :meth:`active_parameters`. Kept parameters keep their state bit
                for bit; carried rows keep theirs and new rows start with zeros.
            keep_rows: carry the rows of the old head into the new head or classifier.
            keep_state: False forgets the optimizer's whole state, as the paper's authors do.

        Raises:
            ValueError: ``fragments`` or ``classes`` would shrink or exceed what the model has.
        """
        _check_growth("fragments", fragments, max(self.grown, 1), len(self.fragments))
        _check_growth("classes", classes, max(self.classes, 1), self.num_classes)
        before = list(self.active_parameters())
        old, rows = self._closing_linear(), self.classes
        deeper, wider = fragments > self.grown, classes > self.classes
        self.grown, self.classes = fragments, classes
        if deeper and fragments == len(self.fragments):
            self.head = None
        elif deeper:
            self.head = self._new_head()
        elif wider and self.head is not None:
            self.head.linear = self._new_head().linear

        new = self._closing_linear()
        carried: dict[nn.Parameter, nn.Parameter] = {}
        if new is not old and rows and (keep_rows or not deeper):
            there = dict(new.named_parameters())  # perhaps without a bias
            carried = {p: there[name] for name, p in old.named_parameters() if name in there}
            with torch.no_grad():
                for source, target in carried.items():
                    _copy_rows(source, target)
        if optimizer is not None:
            _update_optimizer(optimizer, before, dict(self._active()), carried, keep_state)

    def active_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of what has grown: the model's in its own order, then the head's."""
        return (parameter for _, parameter in self._active())

    def flops(self, fragments: int | None = None) -> int:
        """Forward FLOPs per image (2 x multiply-adds) with the closing head; None: as grown.

        The head counts with the present number of classes, before any growth with all of them.
        """
        count = self.grown if fragments is None else fragments
        _check_growth("fragments", count, 0, len(self.fragments))
        total = sum(fragment.flops for fragment in self.fragments[:count])
        if 0 < count < len(self.fragments):
            width, classes = self.classifier.weight.shape[1], self.classes or self.num_classes
            shape = self.fragments[count - 1].shape
            total += head_flops(shape, width, classes, self.head_order)
        return total

    def graduate(self) -> nn.Module:
        """The finished student: a copy of the model, plain, in eval mode, rows by class id.

        Raises:
            RuntimeError: fragments or classes are missing.
        """
        if self.grown < len(self.fragments) or self.classes < self.num_classes:
            raise RuntimeError(
                f"the student has {self.grown} of {len(self.fragments)} fragments and "
                f"{self.classes} of {self.num_classes} classes: it cannot graduate yet"
            )
        graduate = copy.deepcopy(self.model).eval()
        by_class = sorted(range(self.num_classes), key=self.class_order.__getitem__)
        _permute_rows(graduate.get_submodule(self.cutting.classifier), by_class)
        return graduate

    def _closing_linear(self) -> nn.Linear:
        return self.classifier if self.head is None else self.head.linear

    def _new_head(self) -> ReferenceHead:
        stage = repr((self.seed, self.grown, self.classes)).encode()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # Not torch.manual_seed: that would reseed the accelerators, too.
            torch.default_generator.manual_seed(zlib.crc32(stage))
            head = ReferenceHead(
                channels(self.fragments[self.grown - 1].shape),
                self.classifier.weight.shape[1],
                self.classes,
                self.head_order,
            )
        return head.to(self.classifier.weight).train(self.training)

    def _active(self) -> Iterator[tuple[str, nn.Parameter]]:
        names = {name for piece in self.fragments[: self.grown] for name in piece.parameters}
        tied = {id(self.model.get_parameter(name)) for name in names}
        for name, parameter in self.named_parameters():
            if id(parameter) in tied or not name.startswith("model."):
                yield name, parameter

    def __getstate__(self) -> dict[str, Any]:
        # Traced code cannot be pickled: keep the cuts and trace again.
        return {**self.__dict__, "cutting": [piece.name for piece in self.fragments[:-1]]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        cuts = state["cutting"]
        self.cutting = cut(self.model, len(cuts) + 1, input_size=self.input_size, cuts=cuts)

    def __repr__(self) -> str:
        total = sum(fragment.flops for fragment in self.fragments)
        lines = [
            f"Student({type(self.model).__name__}: {self.grown} of {len(self.fragments)} fragments,"
            f" {self.classes} of {self.num_classes} classes, head={self.head_order!r})"
        ]
        width = max(len(fragment.name) for fragment in self.fragments)
        for number, fragment in enumerate(self.fragments, 1):
            share = f"{fragment.flops / total:4.0%} of {total / 1e6:.1f} MFLOP"
            mark = "*" if number <= self.grown else " "
            lines.append(f"  {mark} {number} {fragment.name:<{width}} {share} -> {fragment.shape}")
        return "\n".join(lines)


def _check_growth(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}={value!r}: expected an integer from {least} to {most}")


def _permute_rows(linear: nn.Module, rows: Sequence[int]) -> None:
    with torch.no_grad():
        for parameter in linear.parameters(recurse=False):
            parameter.copy_(parameter[list(rows)])


def _copy_rows(source: Tensor, target: Tensor) -> None:
    """Into the first rows of a linear's tensor, or of a 1x1 convolution's."""
    first = target[: len(source)]
    first.copy_(source.view_as(first))


def _update_optimizer(
    optimizer: Optimizer,
    before: Sequence[nn.Parameter],
    active: dict[str, nn.Parameter],
    carried: dict[nn.Parameter, nn.Parameter],
    keep_state: bool,
) -> None:
    """Bring the groups and the state of an optimizer in line with the parameters now active."""
    groups, state = optimizer.param_groups, optimizer.state
    names = {parameter: name for name, parameter in active.items()}
    for group in groups:
        names.update(zip(group["params"], group.get("param_names", ()), strict=False))
    order = {parameter: index for index, parameter in enumerate(active.values())}
    gone = set(before) - set(active.values())

    if not keep_state:
        state.clear()
    for old, new in carried.items():
        if old in state:
            state[new] = {key: _widen(value, old, new) for key, value in state[old].items()}
    for parameter in gone:
        state.pop(parameter, None)

    seen: set[Tensor] = set()
    for group in groups:
        # Also dropped: a carried parameter's successor that the optimizer held already.
        params = [carried.get(parameter, parameter) for parameter in group["params"]]
        group["params"] = [p for p in dict.fromkeys(params) if p not in gone and p not in seen]
        seen.update(group["params"])
    groups[-1]["params"] += [p for p in active.values() if p not in seen]
    for group in groups:
        group["params"].sort(key=lambda p: order.get(p, len(order)))
        if "param_names" in group:
            group["param_names"] = [names[parameter] for parameter in group["params"]]


def _widen(value: Any, old: Tensor, new: Tensor) -> Any:
    """A tensor of optimizer state shaped like ``old``, with zeros for the rows ``new`` adds."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    wide = torch.zeros_like(new, dtype=value.dtype)
    _copy_rows(value, wide)
    return wide
