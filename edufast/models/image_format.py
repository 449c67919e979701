"""How pixels reach a network, and what publishers of weights say about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edufast.data.samples import Channels, channels
from edufast.utils.errors import UserError, one_line
from edufast.utils.numbers import whole_number


class ImageFormat(NamedTuple):
    """How pixels reach a network.

    Attributes:
        mean: per channel, of pixel / 255.
        std: likewise.
        size: height and width; None: any.
    """

    mean: Channels
    std: Channels
    size: int | None

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], size: int | None) -> ImageFormat:
        """Of values that were checked.

        Raises:
            ValueError: a value that no images can have; the message names it.
        """
        size = None if size is None else whole_number("image_size", size)
        return cls(channels("mean", mean), channels("std", std), size)


def timm_format(model: nn.Module) -> ImageFormat:
    """What the published weights of a timm model were trained on, by its ``pretrained_cfg``.

    Raises:
        UserError: it is no timm model.
    """
    if not getattr(model, "pretrained_cfg", None):
        raise UserError(
            f"{type(model).__name__} has no pretrained_cfg, which would say how its images were "
            "prepared; expected a timm model, a processor, or mean, std and image_size"
        )
    import timm

    try:
        config = timm.data.resolve_model_data_config(model)
        return ImageFormat.of(config["mean"], config["std"], config["input_size"][-1])
    except Exception as error:  # whatever is written there
        raise UserError(
            f"the pretrained_cfg of {type(model).__name__}: {one_line(error)}"
        ) from error


def processor_format(processor: Any) -> ImageFormat:
    """What a Hugging Face image processor makes of images, found by giving it black and white.

    Raises:
        UserError: it makes something else than one square of three channels of each image, or
            mixes the channels.
    """
    name = type(processor).__name__
    try:
        small, large = (_processed(processor, np.zeros((s, s, 3), np.uint8)) for s in (64, 96))
        white = _processed(processor, np.full((64, 64, 3), 255, np.uint8))
        red = _processed(processor, np.array([[[255, 0, 0]]], np.uint8).repeat(64, 0).repeat(64, 1))
    except Exception as error:
        raise UserError(
            f"{name} fails on an image, uint8 (64, 64, 3): {one_line(error)}"
        ) from error
    shape = tuple(small.shape)
    if len(shape) != 4 or shape[:2] != (1, 3) or shape[2] != shape[3]:
        raise UserError(f"{name} makes {shape} of an image; expected (1, 3, size, size)")
    black, white, red = (x.double().mean((0, 2, 3)) for x in (small, white, red))
    if not torch.allclose(red, torch.cat([white[:1], black[1:]]), atol=1e-4):
        raise UserError(f"{name} mixes or reorders the channels; expected red, green, blue")
    std = 1 / (white - black)
    size = shape[2] if large.shape == small.shape else None
    mean, std = ((x * 1e6).round() / 1e6 for x in (-black * std, std))  # it computes in float32
    try:
        return ImageFormat.of(mean.tolist(), std.tolist(), size)
    except ValueError as error:
        raise UserError(f"{name} makes of black and white: {error}") from error


def _processed(processor: Any, image: np.ndarray) -> Tensor:
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
    return pixels
