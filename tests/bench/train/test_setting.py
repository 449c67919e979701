"""What contestants share: the same start for each, and models that compute with finite numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edufast.bench.train.setting import PAIRS, TEACHERS, Pair, fast_precision, synthetic

CPU = torch.device("cpu")


def test_every_contestant_gets_models_of_its_own(setting):
    first, second = setting.new_student(), setting.new_student()
    with torch.no_grad():
        next(first.parameters()).zero_()
    for name, value in setting.student.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)
    for original, teacher in zip(setting.teachers, setting.new_teachers(), strict=True):
        assert teacher is not original and not teacher.training
        assert not any(p.requires_grad for p in teacher.parameters())


def test_a_setting_is_the_same_every_time(pair, setting):
    again = synthetic(pair, 12, CPU)
    assert np.array_equal(again.data.train.images, setting.data.train.images)
    for model, other in zip(
        [setting.student, *setting.teachers], [again.student, *again.teachers], strict=True
    ):
        for value, found in zip(
            model.state_dict().values(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(value, found)


def test_the_teachers_share_out_the_classes_and_every_class_has_samples(setting):
    owned = [c for start, stop in setting.slices for c in range(start, stop)]
    assert owned == list(range(6)) == sorted(set(setting.data.train.labels.tolist()))
    assert set(setting.data.val.labels.tolist()) == set(range(6))


@pytest.mark.parametrize("name", PAIRS)
def test_the_classes_of_a_pair_divide_among_the_teachers(name):
    assert PAIRS[name].name == name and PAIRS[name].classes % TEACHERS == 0


def test_deep_teachers_have_logits_of_a_usual_size():
    """Without running statistics the activations of a deep residual net grow layer by layer."""
    deep = synthetic(Pair("resnet56", "resnet8", image_size=8, classes=6, samples=6), 6, CPU)
    with torch.no_grad():
        logits = torch.cat([teacher(torch.randn(6, 3, 8, 8)) for teacher in deep.teachers])
    assert logits.abs().max() < 20  # without them it is 200
    norms = [m for m in deep.teachers[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert not any(m.training for m in deep.teachers[0].modules())


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_is_fast_only_where_a_gpu_multiplies_it_in_hardware(monkeypatch, supported):
    def in_hardware(including_emulation: bool = True) -> bool:
        return supported or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", in_hardware)
    assert fast_precision(torch.device("cuda")) == ("bf16" if supported else "fp32")


def test_the_fast_precision_of_a_cpu_is_one_that_training_takes():
    from edufast.training.settings import Training

    assert Training(precision=fast_precision(CPU))
