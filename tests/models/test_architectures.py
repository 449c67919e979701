"""Every architecture here cuts, learns in every grade and graduates.

`python -m tests.models.test_architectures` writes the table of the cuts, docs/architectures.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from edufast.models.zoo import create_model
from edufast.student.student import Student

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
CLASSES, SIZE = 10, 64


def hugging_face(kind: str, **config: object) -> nn.Module:
    """A Hugging Face classifier of that configuration, without weights."""
    transformers = pytest.importorskip("transformers")
    chosen = transformers.AutoConfig.for_model(kind, num_labels=CLASSES, **config)
    return transformers.AutoModelForImageClassification.from_config(chosen)


# One network of every family in timm, among the smallest it has.
TIMM = [
    "convnext_atto",
    "cs3darknet_focus_s",
    "densenet121",
    "dla46x_c",
    "efficientnet_b0",
    "efficientvit_b0",
    "ese_vovnet19b_slim_dw",
    "fasternet_t0",
    "fastvit_t8",
    "ghostnet_050",
    "hgnetv2_b0",
    "inception_next_atto",
    "lcnet_050",
    "legacy_seresnet18",
    "mnasnet_small",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
    "poolformer_s12",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "repvgg_a0",
    "resnet18",
    "resnetv2_18",
    "resnext26ts",
    "skresnet18",
    "starnet_s050",
    "test_mambaout",
    "test_nfnet",
    "tiny_vit_5m_224",
    "vgg11_bn",
    "xception41",
]
# Those that have to be told the size of the images.
TIMM_SIZED = [
    "deit_tiny_patch16_224",
    "mixer_s32_224",
    "pit_ti_224",
    "resmlp_12_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224",
    "twins_svt_small",
    "vit_tiny_patch16_224",
]
TORCHVISION = ["mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"]
HUGGING_FACE = {
    "convnext": {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 128]},
    "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "segformer": {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 128]},
    "swin": {
        "depths": [1, 1, 2, 1],
        "embed_dim": 32,
        "num_heads": [1, 2, 4, 8],
        "image_size": SIZE,
        "window_size": 2,
    },
    "vit": {
        **{"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2},
        **{"intermediate_size": 128, "image_size": SIZE, "patch_size": 16},
    },
}


def timm(name: str, **options: object) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)


def plain(name: str) -> nn.Module:
    return create_model(name, CLASSES)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(plain, name) for name in ("resnet20", "resnet8x4", "wrn_16_2")},
    **{f"timm/{name}": partial(timm, name) for name in TIMM},
    **{f"timm/{name}": partial(timm, name, img_size=SIZE) for name in TIMM_SIZED},
    **{f"torchvision/{name}": partial(plain, f"torchvision/{name}") for name in TORCHVISION},
    **{f"hf/{kind}": partial(hugging_face, kind, **c) for kind, c in HUGGING_FACE.items()},
}


def student(name: str) -> Student:
    return Student(MODELS[name](), 3, input_size=(3, SIZE, SIZE))


def row(name: str, student: Student) -> str:
    """Line of the table about a student."""
    parameters = sum(p.numel() for p in student.model.parameters()) / 1e6
    flops = [fragment.flops for fragment in student.fragments]
    shares = " / ".join(f"{share / sum(flops):.0%}" for share in flops)
    cuts = [
        f"`{fragment.name}` {'x'.join(map(str, fragment.shape))}"
        f"{' (channels last)' if fragment.channels_last and len(fragment.shape) == 3 else ''}"
        for fragment in student.fragments[:-1]
    ]
    return f"| {name} | {parameters:.2f} M | {cuts[0]} | {cuts[1]} | {shares} |"


@pytest.mark.parametrize("name", MODELS)
def test_cuts_learns_and_graduates(name: str) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(2, 3, SIZE, SIZE), torch.arange(2)
    taught = student(name)
    assert row(name, taught) in PAGE.read_text().splitlines()

    taught.eval()
    with torch.no_grad():
        features = images
        for fragment in taught.fragments:
            features = fragment(taught.model, features)
        expected = taught.model(images)
        assert torch.equal(features, getattr(expected, "logits", expected))

    optimizer = None
    for fragments, classes in ((1, 3), (2, 6), (3, CLASSES)):
        taught.train().grow(fragments=fragments, classes=classes, optimizer=optimizer)
        optimizer = optimizer or torch.optim.SGD(taught.active_parameters(), lr=1e-3)
        logits = taught(images)
        assert logits.shape == (2, classes)
        nn.functional.cross_entropy(logits, labels).backward()
        assert all(p.grad is not None for p in taught.active_parameters())
        optimizer.step()
        optimizer.zero_grad()
        assert all(p.isfinite().all() for p in taught.active_parameters())

    graduate = taught.graduate()
    with torch.no_grad():
        answer = graduate(images)
        assert torch.equal(getattr(answer, "logits", answer), taught.eval()(images))
    with torch.device("meta"):
        fresh = MODELS[name]()
    fresh.load_state_dict(graduate.state_dict(), strict=True, assign=True)


def test_the_page_has_these_architectures_only() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == list(MODELS)


INTRODUCTION = """\
# Architectures

Where `Student(model, 3)` cuts each model, found automatically. `python -m
tests.models.test_architectures` writes this page, and each line has a test: the fragments in
sequence give the model's logits bit for bit, each of three grades takes a training step, and the
graduate's weights load into a fresh model.

A cut is named by the module it follows, with the shape of the features of one image, (C, H, W) or
tokens (N, C); maps that are (H, W, C) are marked as channels last. FLOPs are those of the three
fragments. Images are 64 x 64, models have 10 classes and random weights; those of timm are among
the smallest of their families, those of Hugging Face smaller than their defaults.

| model | parameters | first cut | second cut | FLOPs |
|---|---|---|---|---|
"""

NOTES = """
## What cannot be cut

- Models with two classifiers whose logits are averaged (CrossViT, EfficientFormer, LeViT, RepViT,
  SwiftFormer and VOLO with their distillation or auxiliary heads): no single layer has a row for
  each class.
- Models in which two tensors pass from block to block (NASNet, PNASNet): nowhere is there a single
  tensor to cut at. The error lists the cuts that are possible.
- Models whose own `forward` has control flow that depends on pixel values. In a submodule this does
  not matter: the submodule stays in one piece.

Control flow that depends on sizes (`if height % 2`), and sizes that one stage passes to the next,
are fixed for the `input_size` given to `Student`.
"""

if __name__ == "__main__":
    with torch.random.fork_rng():
        lines = [row(name, student(name)) for name in MODELS]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(INTRODUCTION + "\n".join(lines) + "\n" + NOTES)
