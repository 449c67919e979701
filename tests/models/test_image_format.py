"""What publishers of weights say about the images these learned from."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.models.image_format import processor_format, timm_format
from edufast.models.zoo import create_model
from edufast.teachers.teacher import Teacher
from edufast.utils.errors import UserError
from tests.tiny import tiny_model

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_timm_says_what_pretrained_weights_expect_and_only_if_asked():
    model = create_model("timm/vit_tiny_patch16_224", 6)
    asked, unasked = Teacher.pretrained(model, range(6), "vit"), Teacher(model, range(6))
    assert (asked.mean, asked.std, asked.image_size) == ((0.5,) * 3, (0.5,) * 3, 224)
    assert (asked.name, asked.classes) == ("vit", tuple(range(6)))
    assert (unasked.mean, unasked.std, unasked.image_size) == (None, None, None)
    with pytest.raises(UserError, match="Sequential has no pretrained_cfg"):
        Teacher.pretrained(tiny_model(), range(6))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("ViTImageProcessor", {}, ((0.5,) * 3, (0.5,) * 3, 224)),
        (
            "ConvNextImageProcessor",
            {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"]},
            (*IMAGENET.values(), 384),
        ),
        ("ViTImageProcessor", {"do_normalize": False}, ((0,) * 3, (1,) * 3, 224)),
        ("ViTImageProcessor", {"do_resize": False}, ((0.5,) * 3, (0.5,) * 3, None)),
        (
            "EfficientNetImageProcessor",
            {"rescale_factor": 1 / 127.5, "do_normalize": False, "include_top": False},
            ((0,) * 3, (0.5,) * 3, 346),
        ),
    ],
)
def test_hugging_face_processors_say_it(kind, options, expected):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, kind)(**options)
    found = processor_format(processor)
    assert found.size == expected[2]
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-6)
    assert Teacher.pretrained(tiny_model(), range(6), processor=processor).mean == found.mean


def test_a_processor_that_does_more_is_refused():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(UserError, match="MobileViTImageProcessor mixes or reorders the channels"):
        processor_format(transformers.MobileViTImageProcessor())
    oblong = transformers.ViTImageProcessor(size={"height": 32, "width": 48})
    with pytest.raises(UserError, match=r"\(1, 3, 32, 48\) of an image; expected \(1, 3, size"):
        processor_format(oblong)
    with pytest.raises(UserError, match="function fails on an image"):
        processor_format(lambda x: x)


def test_numbers_that_no_images_have_are_named():
    transformers, timm = map(pytest.importorskip, ("transformers", "timm"))
    processor = transformers.ViTImageProcessor(image_mean=[1e308] * 3)
    with pytest.raises(UserError, match=r"makes of black and white: .* is .*; expected 3 finite"):
        processor_format(processor)
    model = timm.create_model("resnet10t", pretrained=False)
    for key, value in (("mean", (0.5,)), ("std", (0, 0, 0)), ("input_size", ())):
        model.pretrained_cfg = {**model.pretrained_cfg, key: value}
        with pytest.raises(UserError, match="the pretrained_cfg of ResNet: ") as caught:
            timm_format(model)
        assert "\n" not in str(caught.value)
