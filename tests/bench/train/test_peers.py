"""The loops to beat train on views of the data, and on the loss they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edufast.bench.train.peers import CarefulLoop, PlainLoop, plain_kd
from edufast.bench.train.setting import ALPHA, TEMPERATURE
from edufast.ops import kd_loss


def test_plain_and_careful_batches_are_views_of_the_data(setting):
    still = replace(setting, augment=replace(setting.augment, pad=0, flip=False))
    mean, std = (torch.tensor(c)[:, None, None] for c in (setting.data.mean, setting.data.std))
    images, classes = setting.data.train.images, setting.data.train.labels
    known = {image.tobytes(): int(c) for image, c in zip(images, classes, strict=True)}
    for loop in (PlainLoop(still), CarefulLoop(still, compiled=False)):
        views, labels = next(loop.batches())
        assert views.shape == (12, 3, 16, 16)
        pixels = ((views * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        assert [known[p.numpy().tobytes()] for p in pixels] == labels.tolist()


def test_the_plain_loss_is_the_fused_one(setting):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 6), torch.tensor([0, 1, 2, 3, 4, 5, 0, 3])
    teachers = [torch.randn(8, 2) for _ in range(3)]
    expected = kd_loss(
        logits,
        teachers,
        labels,
        slices=setting.slices,
        temperature=TEMPERATURE,
        alpha=ALPHA,
        weighting="routed",
    )
    torch.testing.assert_close(plain_kd(logits, teachers, labels, setting.slices), expected)


def test_the_careful_loop_learns_what_the_plain_one_does(setting):
    plain, careful = PlainLoop(setting), CarefulLoop(setting, compiled=False)
    careful.precision = "fp32"
    torch.manual_seed(0)
    batches = [(torch.randn(12, *setting.input_size), torch.arange(12) % 6) for _ in range(2)]
    for batch in batches:
        torch.testing.assert_close(careful.step(batch), plain.step(batch), rtol=1e-4, atol=0)
    for expected, found in zip(
        plain.student.parameters(), careful.student.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("compiled", [None, False])
def test_a_loop_leaves_the_setting_to_the_others(setting, compiled):
    models = [setting.student, *setting.teachers]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    loop = PlainLoop(setting) if compiled is None else CarefulLoop(setting, compiled=compiled)
    loop.step((torch.randn(12, *setting.input_size), torch.arange(12) % 6))
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
