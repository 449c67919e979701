"""The training step of a grade, compiled if it pays, and launched as one graph on a GPU.

On several ranks each runs the student on its own rows of a batch, and computes the loss of the
whole batch from the gathered outputs, see :mod:`edufast.utils.collectives`. The gradients are
averaged after the backward pass, without DistributedDataParallel: parameters come, go and freeze
from grade to grade, and the step is one compiled graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edufast.distill import Algorithm
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.models.global_batch_norm import batch_norms, global_statistics
from edufast.student.student import Student
from edufast.training.average import Average
from edufast.training.settings import Training, autocast
from edufast.utils._torch_private import (
    compiler_backend,
    compiler_error,
    why_not_compiled,
    with_own_code,
)
from edufast.utils.choices import Precision
from edufast.utils.collectives import average_, gather_columns, gather_rows
from edufast.utils.cuda_graph import Replays
from edufast.utils.errors import TrainingError, UserError
from edufast.utils.flops import TRAINING_FACTOR
from edufast.utils.ranks import size
from edufast.utils.registry import call_user

BACKEND = "inductor"


class TrainStep:
    """One optimiser step of a grade: ``loss = step(images, targets, outputs)``.

    A step of one process never waits for the device. Forward pass, loss and backward pass are
    traced and compiled as one graph (AOTAutograd), once, and again when a fragment freezes: shapes
    are constant within a grade, and what changes from step to step, such as the learning rate, is
    not part of the graph. The optimiser is PyTorch's fused kernel, which is a single launch
    already; compiling it made it no faster.

    On a GPU the whole step, compiled or not, is captured as a CUDA graph in each epoch's third
    step and replayed in those after it, unless ``training.compile`` is False or there are several
    ranks.

    Args:
        student: grown for this grade.
        algorithm: how to distil.
        optimizer: of the student's active parameters.
        training: precision, and whether to compile.
        average: of the student, updated in every step; None: there is none.
        exit_weight: weight of the losses of kept exits.
        steps: number of steps in the grade, on which "auto" compilation depends.
        alike: whether all batches have the same number of samples for each owner; if not, "auto"
            does not compile.

    Attributes:
        optimizer: as given.
        compiled: whether the step is compiled.
        reason: why it is, or why not.
        compiles: number of compilations so far.
    """

    def __init__(
        self,
        student: Student,
        algorithm: Algorithm,
        optimizer: torch.optim.Optimizer,
        training: Training,
        *,
        average: Average | None = None,
        exit_weight: float,
        steps: int,
        alike: bool = True,
    ) -> None:
        self.compiles = 0
        self._student, self._algorithm, self.optimizer = student, algorithm, optimizer
        self._training, self._average = training, average
        self._exit_weight = exit_weight
        self._batch_norms = batch_norms(student)
        self._begun = False
        if training.compile == "auto" and not alike:
            self.compiled, self.reason = False, "the composition of the batches changes"
        elif training.compile == "auto":
            images = -(-training.batch_size // size())
            self.compiled, self.reason = worth_compiling(student, images, steps)
        else:
            self.compiled, self.reason = training.compile, "as requested"
        self._loss: Callable[..., Tensor] = self._compile() if self.compiled else _loss
        captured = training.compile is not False and size() == 1
        device = next(student.parameters()).device if captured else None
        self._replays = Replays("the training step", device)

    @property
    def phase(self) -> str:
        """The phase that the next step counts as: "compile" or "student"."""
        return "compile" if self.compiled and not self._begun else "student"

    def __call__(self, images: Tensor, targets: Tensor, outputs: TeacherOutputs | None) -> Tensor:
        """Learn from a batch; returns its loss, a scalar still on the device.

        Args:
            images: (n, 3, H, W) float32 channels_last, this rank's; n = B where it is the only one.
            targets: (B,) int64, position of each image's class among the logits; or probabilities
                (B, classes) of mixed images.
            outputs: teacher outputs for all B; None: the grade has no teachers.

        Raises:
            TrainingError: ``compile`` is True, but the step cannot be compiled.
            UserError: an algorithm of the user's fails, or returns something else than a loss.
        """
        return self._replays(self._learn_and_update, images, targets, outputs)

    def renew(self) -> None:
        """Call this when fragments may have been frozen, or state was loaded: a captured step
        refers to the parameters as they were."""
        self._replays.forget()

    def update(self) -> None:
        """Clip the gradients, update the weights, and their average."""
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        average_(p.grad for p in parameters if p.grad is not None)
        if self._training.clip:
            nn.utils.clip_grad_norm_(parameters, self._training.clip)
        with _capturable(groups):
            self.optimizer.step()
        if self._average is not None:
            self._average.update()

    def _learn_and_update(
        self, images: Tensor, targets: Tensor, outputs: TeacherOutputs | None
    ) -> Tensor:
        try:
            loss = self._learn(images, targets, outputs)
            self.update()
        finally:  # also where it could not be captured: its gradients hold no numbers
            self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _learn(self, images: Tensor, targets: Tensor, outputs: TeacherOutputs | None) -> Tensor:
        """Compute the gradients of a batch; returns its loss."""
        self._begun, before = True, self.compiles
        try:
            return self._backward(images, targets, outputs)
        except Exception as error:
            if not self.compiled or not self._is_of_compiler(error, before):
                raise
            self._fall_back(error)
        return self._backward(images, targets, outputs)

    def _is_of_compiler(self, error: Exception, before: int) -> bool:
        """Whether ``error`` says that a step could not be compiled; ``before`` is the number of
        compilations before that step.

        The backward pass, which is compiled when it first runs, raises whatever that runs into. If
        it was something else, the step will run into it again; but other ranks would wait for it.
        """
        unclear = self.compiles > before and size() == 1
        return unclear or isinstance(error, compiler_error())

    def _backward(self, images: Tensor, targets: Tensor, outputs: TeacherOutputs | None) -> Tensor:
        setting = self._student, self._algorithm, self._training.precision, self._exit_weight
        with global_statistics(self._batch_norms):
            loss = self._loss(*setting, images, targets, outputs)
        loss.backward()
        return loss.detach()

    def _compile(self) -> Callable[..., Tensor]:
        inductor = compiler_backend(BACKEND)

        def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            self.compiles += 1
            return inductor(graph, inputs)

        # Every grade of every training in the process is compiled on its own.
        compiled: Callable[..., Tensor] = torch.compile(
            with_own_code(_loss), backend=counting, fullgraph=True, dynamic=False
        )
        return compiled

    def _fall_back(self, error: Exception) -> None:
        cause = why_not_compiled(error)
        if self._training.compile is True:
            raise TrainingError(
                f"compile is true, but this step cannot be compiled: {cause}; expected "
                "compile: auto or false"
            ) from error
        self.compiled, self.reason = False, f"it cannot be compiled: {cause}"
        self._loss = _loss


@contextmanager
def _capturable(groups: list[dict[str, Any]]) -> Iterator[None]:
    """AdamW must be told that it is being captured, and warns if told so without a capture."""
    on_gpu = groups[0]["params"][0].is_cuda and "capturable" in groups[0]
    asked = groups if on_gpu and torch.cuda.is_current_stream_capturing() else []
    for group in asked:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in asked:
            group["capturable"] = False


def _loss(
    student: Student,
    algorithm: Algorithm,
    precision: Precision,
    exit_weight: float,
    images: Tensor,
    targets: Tensor,
    outputs: TeacherOutputs | None,
) -> Tensor:
    """Loss of a batch: a scalar. Networks run in ``precision``, losses in float32."""
    with autocast(images.device, precision):
        answers, features = student.forward_answers(images)
    *exits, logits = gather_columns(answers, len(targets))
    loss = _logit_loss(algorithm, logits.float(), targets, outputs)
    for exit_logits in exits:
        loss = loss + exit_weight * _logit_loss(algorithm, exit_logits.float(), targets, outputs)
    if outputs is not None and algorithm.reads_features:
        features = [gather_rows(feature, len(targets)).float() for feature in features]
        loss = loss + _part(algorithm, "feature_loss", features, outputs, targets)
    return loss


def _logit_loss(
    algorithm: Algorithm, logits: Tensor, targets: Tensor, outputs: TeacherOutputs | None
) -> Tensor:
    if outputs is None:
        return F.cross_entropy(logits, targets)
    return _part(algorithm, "logit_loss", logits, outputs, targets)


def _part(algorithm: Algorithm, method: str, *arguments: Any) -> Tensor:
    """A part of the loss, by an algorithm that may be a user's."""
    what = f"{type(algorithm).__name__}.{method}"
    loss = call_user(what, getattr(algorithm, method), *arguments)
    if not isinstance(loss, Tensor) or loss.dim():
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"{what} returned {found}; expected a Tensor without dimensions")
    return loss


# What compiling saves and costs, measured with 2 threads of an AMD EPYC (4 cores, AVX-512) for
# resnet8 and resnet20 on 32 x 32 images in batches of 64: the eager step runs at 120 GFLOP/s per
# thread, three quarters of the time in oneDNN's convolutions, which compiling does not change;
# fusing the rest gained between -5% and 19%. The first compilation took 20 s to 26 s. On an H100,
# whose steps are replayed and wait for no launches, compiling saved a step of resnet20 0.4 ms at
# batches of 128 and 1.0 ms at 512.
_FLOPS_PER_SECOND = {"cpu": 120e9, "cuda": 20e12}  # per thread; per GPU
_SAVED = {"cpu": 0.05, "cuda": 0.2}
_COMPILE_SECONDS, _COMPILE_SECONDS_PER_PARAMETER = 15.0, 0.1


def worth_compiling(student: Student, batch_size: int, steps: int) -> tuple[bool, str]:
    """Whether compiling saves more time in ``steps`` steps than it takes, and the reason.

    An estimate rather than a measurement, because a resumed training must decide the same.
    """
    parameters = list(student.active_parameters())
    kind = parameters[0].device.type
    if kind not in _SAVED:
        return False, f"it is not known whether compiling pays on {kind}"
    lanes = torch.get_num_threads() if kind == "cpu" else 1
    step = TRAINING_FACTOR * student.flops() * batch_size / _FLOPS_PER_SECOND[kind] / lanes
    saved = _SAVED[kind] * step * steps
    cost = _COMPILE_SECONDS + _COMPILE_SECONDS_PER_PARAMETER * len(parameters)
    return saved > cost, f"{steps:,} steps save about {saved:.0f} s, compiling takes {cost:.0f} s"
