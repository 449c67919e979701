"""The section of a recipe that says how a network is optimised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from edufast.data.samples import LARGEST_IMAGE
from edufast.experiments.fields import BatchSize
from edufast.experiments.schema import Section
from edufast.utils.choices import Compile, Mix, Optimizer, Policy, Precision

# What carries a section out is imported by its methods: checking a recipe takes no torch.
if TYPE_CHECKING:
    from edufast.training.settings import Training


class AugmentSection(Section):
    """Random views; see :class:`edufast.data.Augment`."""

    pad: Annotated[int, Field(ge=0, le=LARGEST_IMAGE)] = 4
    flip: bool = True
    random_resized_crop: tuple[float, float] | None = None
    replay: PositiveInt | None = None


class TrainingSection(Section):
    """The optimiser's settings; see :class:`edufast.Training`."""

    batch_size: BatchSize = 128
    lr: PositiveFloat = 0.1
    pretrained_lr: Annotated[float, Field(gt=0, le=1)] = 0.3
    optimizer: Optimizer = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: AugmentSection = AugmentSection()
    policy: Policy = "none"
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    mix: Mix = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    patience: Annotated[int, Field(ge=0)] = 0
    precision: Precision = "fp32"
    compile: Compile = "auto"

    def create(self) -> Training:
        """The settings that a School takes."""
        from edufast.data import Augment
        from edufast.training.settings import Training

        augment = Augment(**self.augment.model_dump())
        return Training(**self.model_dump(exclude={"augment"}), augment=augment)
