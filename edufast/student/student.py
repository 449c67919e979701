"""The student: a model that is taught fragment by fragment and class by class."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edufast.data.class_map import ClassMap
from edufast.models.cutting import Fragment, truncate
from edufast.models.feature_taps import pooled
from edufast.models.heads import ReferenceHead, check_kind, head_flops, head_width
from edufast.models.tracing import to_faster_layout
from edufast.models.wrappers import unwrapped
from edufast.student.optimizer import copy_rows, follow_growth
from edufast.student.sized_cutting import SizedCutting
from edufast.utils.choices import HeadKind
from edufast.utils.flops import TRAINING_FACTOR
from edufast.utils.instances import all_of, check_instance
from edufast.utils.modes import in_eval_mode
from edufast.utils.numbers import whole_number


class Student(nn.Module):
    """A classifier that grows by fragments and by classes (education distillation).

    The model keeps its weights; fragments are code that runs parts of it. While fragments are
    missing, a :class:`ReferenceHead` computes the logits; afterwards the model's own classifier
    does. A new student has no fragments: call :meth:`grow`.

    Args:
        model: maps images (B, *input_size) to logits (B, C) with a final ``nn.Linear`` or 1x1
            ``nn.Conv2d``. It is trained in place, without the wrappers of torch.compile or
            DataParallel.
        grades: number of fragments.
        input_size: shape of one image.
        cuts: ``grades - 1`` module paths such as ``"layer2"`` after which to cut; None: fragments
            of about equal FLOPs, see :func:`edufast.models.cutting.cut`.
        head: kind of the reference heads, ``"grid"``, ``"pool_first"``, ``"paper"`` or
            ``"linear"``.
        head_width: channels after the adapter of a reference head; None: the ``in_features`` of the
            model's classifier.
        seed: of the weights of new heads and rows, together with the numbers of fragments and
            classes.
        learned: names of the model's parameters that were trained before, see
            :func:`edufast.models.pretrained.started`.

    Raises:
        UserError: the model cannot be cut as requested.
        ValueError: ``head``, ``head_width`` or ``seed`` is invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        grades: int = 3,
        *,
        input_size: Sequence[int] = (3, 32, 32),
        cuts: Sequence[str] | None = None,
        head: HeadKind = "grid",
        head_width: int | None = None,
        seed: int = 0,
        learned: Collection[str] = (),
    ) -> None:
        super().__init__()
        check_kind(head)
        if head_width is not None:
            head_width = whole_number("head_width", head_width)
        grades = whole_number("grades", grades)
        check_instance("model", model, nn.Module)
        model = unwrapped(model)
        self.cutting = SizedCutting(model, grades, input_size, cuts)
        self.model = model
        self.exits = nn.ModuleDict()  # heads kept from earlier grades, by number of fragments
        self.head: ReferenceHead | None = None
        self.head_kind: HeadKind = head
        self.head_width = head_width or self.classifier.weight.shape[1]
        self.seed = whole_number("seed", seed, 0)
        self.learned = _parameters(model, learned)
        self.grown = 0  # number of fragments that exist
        self._frozen = 0
        self.classes = 0  # width of the logits
        self._contiguous = False  # whether the model needs images that are
        self.class_map = ClassMap.of(range(self.num_classes))

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """All fragments, grown or not, with their names, and with their FLOPs and output shapes for
        the current image size."""
        return self.cutting.current.fragments

    @property
    def input_size(self) -> tuple[int, ...]:
        """Shape of one image, as the graduate takes it."""
        return self.cutting.input_size

    @property
    def image_size(self) -> int | None:
        """Height and width to which the student reduces its images; None: they stay as they are.

        Raises:
            UserError: the model does not take images of this size.
            ValueError: it is larger than that of ``input_size``.
        """
        return self.cutting.image_size

    @image_size.setter
    def image_size(self, size: int | None) -> None:
        self.cutting.image_size = size

    @property
    def classifier(self) -> nn.Linear:
        """The model's last layer; if it is a 1x1 ``nn.Conv2d``, its weight has two more axes."""
        return cast(nn.Linear, self.model.get_submodule(self.cutting.whole.classifier))

    @property
    def num_classes(self) -> int:
        """Number of classes of the finished student."""
        return self.classifier.weight.shape[0]

    def assign_classes(self, class_map: ClassMap) -> None:
        """Assign the classes of ``class_map`` to the logits, in its order.

        The rows of the model's classifier are taken to be in the order of class ids and are
        permuted accordingly, so that the classes taught so far are always the first columns of the
        logits. A School calls this.

        Raises:
            ValueError: the model has another number of classes.
            RuntimeError: the student has already grown.
        """
        if len(class_map) != self.num_classes:
            raise ValueError(
                f"class_map has {len(class_map)} classes; expected {self.num_classes}, as many as "
                "the model"
            )
        if self.grown and class_map != self.class_map:
            raise RuntimeError("the student has already grown: its classes can no longer change")
        if not self.grown:
            _permute_rows(self.classifier, self.class_map.by_id)
            _permute_rows(self.classifier, _inverse(class_map.by_id))
        self.class_map = class_map

    @property
    def frozen(self) -> int:
        """Number of fragments, from the first, that have stopped learning.

        They get no gradients and are in eval mode even while the student trains: batch
        normalisation uses its running statistics and leaves them alone, dropout is off. What learns
        on sees the features that the graduate will have. A module that a later fragment runs as
        well has that one's mode.

        Raises:
            ValueError: there are not as many fragments.
        """
        return self._frozen

    @frozen.setter
    def frozen(self, fragments: int) -> None:
        self._frozen = whole_number("frozen", fragments, 0, len(self.fragments))
        self.train(self.training)

    def train(self, mode: bool = True) -> Student:
        """Train or eval mode; frozen fragments are always in eval mode."""
        super().train(mode)
        frozen, learning = self.fragments[: self.frozen], self.fragments[self.frozen :]
        settled = set[str]().union(*(piece.modules for piece in frozen))
        for name in settled.difference(*(piece.modules for piece in learning)):
            self.model.get_submodule(name).eval()
        return self

    def to_faster_layout(self) -> None:
        """Put the weights in channels_last, if the model runs on such images; for a School."""
        self._contiguous = not to_faster_layout(self.model, self.input_size)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, *input_size) to logits (B, classes), columns in the order of the class map.

        Raises:
            RuntimeError: the student has not grown yet.
        """
        self._check_grown()
        x = self._given(x)
        for depth in range(1, self.grown + 1):
            x = self._run(depth, x)
        return self.read(x, self.grown)

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of fragments after which there is an exit; the last of them is ``grown``."""
        return (*map(int, self.exits), self.grown) if self.grown else ()

    def forward_exits(self, x: Tensor) -> list[Tensor]:
        """Logits (B, classes) of all exits, at :attr:`depths`, in one pass.

        Raises:
            RuntimeError: the student has not grown yet.
        """
        return self.forward_answers(x)[0]

    def forward_answers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The logits of :meth:`forward_exits`, and the features, see :attr:`feature_shapes`.

        Raises:
            RuntimeError: the student has not grown yet.
        """
        self._check_grown()
        x, heads = self._given(x), self._heads()
        logits, features = [], []
        for depth, fragment in enumerate(self.fragments[: self.grown], 1):
            if depth == len(self.fragments):
                break
            # Heads of frozen fragments keep learning: as exits they are students of their own.
            x = embedding = self._run(depth, x)
            features.append(_standard_layout(x, fragment))
            if depth in heads:
                embedding = heads[depth].embed(x)
                logits.append(heads[depth].linear(embedding))
        if self.grown == len(self.fragments):
            *body, classifier = self.cutting.current.closing
            for piece in body:
                x = piece(self.model, x)
                embedding = _standard_layout(x, piece)
                if piece.places > 1:
                    features.append(embedding)
            logits.append(classifier(self.model, x)[:, : self.classes])
        return logits, [*features, pooled(embedding)]

    @property
    def feature_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the features of one image: maps (C, H, W) or tokens (N, C).

        One for each fragment (for the last of all, the features that are pooled for the
        classifier), then that of the embedding (C,), which the last linear layer reads.
        """
        pieces = list(self.fragments[: self.grown])
        if self.grown == len(self.fragments):
            pieces[-1:] = [piece for piece in self.cutting.current.closing[:-1] if piece.places > 1]
        shapes = [_standard_layout(torch.empty(1, *p.shape, device="meta"), p) for p in pieces]
        return [*(tuple(shape.shape[1:]) for shape in shapes), (self.row_width(self.grown),)]

    def read(self, features: Tensor, depth: int) -> Tensor:
        """Logits (B, classes) of the exit at ``depth``, from the output of that fragment."""
        head = self._heads().get(depth)
        return features[:, : self.classes] if head is None else head(features)

    def grow(
        self,
        *,
        fragments: int,
        classes: int,
        optimizer: Optimizer | None = None,
        keep_rows: bool = False,
        keep_state: bool = True,
        keep_exits: bool = False,
    ) -> None:
        """Grow to the first ``fragments`` fragments and to ``classes`` logits.

        If fragments are added, the student gets a new head, or the model's own classifier once all
        fragments exist. If only classes are added, the current head gets new rows, and so do the
        exits kept from earlier grades. New weights are initialised like those of PyTorch's layers,
        from a separate generator seeded by (seed, fragments below, classes). Rows of the model's
        classifier are not initialised again; those of classes that are not taught yet change by
        weight decay only. Everything that existed and is neither replaced nor widened keeps its
        weights bit for bit.

        Args:
            fragments: from the current number to all.
            classes: from the current number to all.
            optimizer: updated in place. Parameters that no longer exist are removed, new ones are
                added to the last group, or to the one that is marked "learned" (a linear layer that
                received rows takes the place of the old one), and within a group they are in the
                order of :meth:`active_parameters`.
                Parameters and rows that are kept keep their state bit for bit; the state of new
                rows starts with zeros.
            keep_rows: copy the rows of the old head into the new head or classifier.
            keep_state: False clears the optimizer's whole state, as the paper's authors do.
            keep_exits: if fragments are added, keep the old head as an exit, which is trained along
                with the rest through :meth:`forward_exits` and can graduate as a smaller student.

        Raises:
            ValueError: ``fragments`` or ``classes`` is less than the current number or more than
                the model has, or ``keep_rows`` is True and the rows have different widths.
        """
        for name, value in (
            ("keep_rows", keep_rows),
            ("keep_state", keep_state),
            ("keep_exits", keep_exits),
        ):
            check_instance(name, value, bool)
        if optimizer is not None:
            check_instance("optimizer", optimizer, torch.optim.Optimizer)
        fragments = whole_number("fragments", fragments, max(self.grown, 1), len(self.fragments))
        classes = whole_number("classes", classes, max(self.classes, 1), self.num_classes)
        deeper, wider = fragments > self.grown, classes > self.classes
        keep_rows = keep_rows and deeper and self.grown > 0
        if keep_rows and self.row_width(fragments) != self.row_width(self.grown):
            raise ValueError(
                f"keep_rows=True: rows of {self.row_width(self.grown)} features cannot become rows "
                f"of {self.row_width(fragments)}"
            )
        before = list(self.active_parameters())
        old = self._closing_linear()
        if deeper:
            if keep_exits and self.head is not None:
                self.exits[str(self.grown)] = self.head
            self.grown = fragments
            complete = fragments == len(self.fragments)
            self.head = None if complete else self._new_head(fragments, classes)
        renewed = [(old, self._closing_linear())] if keep_rows else []
        if wider:
            for depth, head in self._heads().items():
                if head.linear.out_features < classes:
                    wide = self._new_head(depth, classes).linear
                    renewed.append((head.linear, wide))
                    head.linear = wide
        self.classes = classes

        carried = []
        for source, target in renewed:
            there = dict(target.named_parameters())  # a bias may be missing
            carried += [(p, there[name]) for name, p in source.named_parameters() if name in there]
        with torch.no_grad():
            for rows, new_rows in carried:
                copy_rows(rows, new_rows)
        if optimizer is not None:
            active = dict(self._active())
            follow_growth(optimizer, before, active, carried, keep_state, self.learned)

    def active_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of what has grown: the model's in their order, then those of heads."""
        return (parameter for _, parameter in self._active())

    def flops(self, fragments: int | None = None) -> int:
        """Forward FLOPs (2 x multiply-adds) per image of ``fragments`` fragments and their head.

        None: of the current student, including kept exits. Heads have the current number of
        classes or, if the student has not grown yet, all classes.
        """
        count = self.grown if fragments is None else fragments
        count = whole_number("fragments", count, 0, len(self.fragments))
        exits = self.depths if fragments is None else (count,)
        total = sum(fragment.flops for fragment in self.fragments[:count])
        for depth in exits:
            if 0 < depth < len(self.fragments):
                # A grid has as many cells for smaller images.
                cutting = self.cutting.whole if self.head_kind == "grid" else self.cutting.current
                last, classes = cutting.fragments[depth - 1], self.classes or self.num_classes
                sizes = (last.channels, last.size, self.head_width, classes)
                total += head_flops(*sizes, self.head_kind)
        return total

    def training_flops(self) -> int:
        """FLOPs per image of a training step; frozen fragments have a forward pass only."""
        frozen = sum(fragment.flops for fragment in self.fragments[: self.frozen])
        return TRAINING_FACTOR * self.flops() - (TRAINING_FACTOR - 1) * frozen

    @property
    def columns_by_id(self) -> tuple[int, ...]:
        """Columns of the logits in the order of class ids.

        Raises:
            RuntimeError: classes are missing.
        """
        if self.classes < self.num_classes:
            raise RuntimeError(
                f"the student has {self.classes} of {self.num_classes} classes: it cannot graduate "
                "yet"
            )
        return self.class_map.by_id

    def graduate(self, exit: int | None = None) -> nn.Module:
        """The finished student: a plain copy in eval mode, its logits in the order of class ids.

        Args:
            exit: one of ``depths``, for a smaller student that ends there: a
                ``torch.fx.GraphModule`` of the model's first fragments and the head, for inference.
                None: the whole model.

        Raises:
            ValueError: there is no such exit.
            RuntimeError: fragments or classes are missing.
        """
        order, depth = self.columns_by_id, len(self.fragments) if exit is None else exit
        if exit is None and self.grown < depth:
            raise RuntimeError(
                f"the student has {self.grown} of {depth} fragments: it cannot graduate yet"
            )
        if depth not in self.depths:
            raise ValueError(f"exit={exit!r}: expected one of {', '.join(map(str, self.depths))}")
        head = self._heads().get(depth)
        if head is None:
            graduate = in_eval_mode(copy.deepcopy(self.model))
            _permute_rows(graduate.get_submodule(self.cutting.whole.classifier), order)
        else:
            cut_at = self.fragments[depth - 1].name
            graduate = truncate(self.model, cut_at, head, input_size=self.input_size)
            _permute_rows(graduate.get_submodule("exit.linear"), order)
        return graduate

    def _check_grown(self) -> None:
        if self.grown == 0:
            raise RuntimeError("the student has not grown yet: call grow(fragments=1, classes=...)")

    def _given(self, images: Tensor) -> Tensor:
        """Whole images as the first fragment takes them."""
        images = self.cutting.reduced(images)
        return images.contiguous() if self._contiguous else images

    def _run(self, depth: int, x: Tensor) -> Tensor:
        """The output of the fragment that ends at ``depth``, from that of the one before."""
        fragment = self.fragments[depth - 1]
        if depth > self.frozen:
            return fragment(self.model, x)
        return fragment.eval(self.model, x).detach()

    def _heads(self) -> dict[int, ReferenceHead]:
        """The heads that exist, by the number of fragments below them."""
        heads = {int(depth): cast(ReferenceHead, head) for depth, head in self.exits.items()}
        return heads if self.head is None else {**heads, self.grown: self.head}

    def _closing_linear(self) -> nn.Linear:
        return self.classifier if self.head is None else self.head.linear

    def row_width(self, depth: int) -> int:
        """Number of features that the last linear layer reads after ``depth`` fragments."""
        if depth == len(self.fragments):
            return self.classifier.weight.shape[1]
        last = self.cutting.whole.fragments[depth - 1]
        return head_width(last.channels, last.size, self.head_width, self.head_kind)

    def _new_head(self, depth: int, classes: int) -> ReferenceHead:
        stage = repr((self.seed, depth, classes)).encode()
        last = self.cutting.whole.fragments[depth - 1]
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # Not torch.manual_seed, which would also seed the accelerators.
            torch.default_generator.manual_seed(zlib.crc32(stage))
            head = ReferenceHead(
                last.channels,
                self.head_width,
                classes,
                self.head_kind,
                size=last.size,
                channels_last=last.channels_last,
            )
        return head.to(self.classifier.weight).train(self.training)

    def _active(self) -> Iterator[tuple[str, nn.Parameter]]:
        names = {name for piece in self.fragments[: self.grown] for name in piece.parameters}
        tied = {id(self.model.get_parameter(name)) for name in names}
        for name, parameter in self.named_parameters():
            if id(parameter) in tied or not name.startswith("model."):
                yield name, parameter

    def __repr__(self) -> str:
        total = sum(fragment.flops for fragment in self.fragments)
        lines = [
            f"Student({type(self.model).__name__}: {self.grown} of {len(self.fragments)} fragments,"
            f" {self.classes} of {self.num_classes} classes, head={self.head_kind!r})"
        ]
        width = max(len(fragment.name) for fragment in self.fragments)
        for number, fragment in enumerate(self.fragments, 1):
            share = f"{fragment.flops / total:4.0%} of {total / 1e6:.1f} MFLOP"
            mark = ">" if number in self.depths else "*" if number <= self.grown else " "
            lines.append(f"  {mark} {number} {fragment.name:<{width}} {share} -> {fragment.shape}")
        return "\n".join(lines)


def _standard_layout(x: Tensor, piece: Fragment) -> Tensor:
    """Maps as (B, C, H, W), tokens as (B, N, C)."""
    if x.dim() == 4 and piece.channels_last:
        return x.movedim(-1, 1)
    if x.dim() == 3 and not piece.channels_last:
        return x.movedim(1, -1)
    return x


def _parameters(model: nn.Module, names: Collection[str]) -> frozenset[nn.Parameter]:
    """The parameters of ``model`` with these names."""
    known = dict(model.named_parameters(remove_duplicate=False))
    found = []
    for name in all_of("learned", names, str):
        if name not in known:
            raise ValueError(f"learned has {name!r}; expected names of parameters of the model")
        found.append(known[name])
    return frozenset(found)


def _inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


def _permute_rows(linear: nn.Module, rows: Sequence[int]) -> None:
    with torch.no_grad():
        for parameter in linear.parameters(recurse=False):
            parameter.copy_(parameter[list(rows)])
