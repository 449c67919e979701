"""Settings of a training: what they make, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from edufast.training.settings import SchoolOptions, Training, autocast


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'; expected 'fp32' or 'bf16'"),
        ({"compile": "yes"}, "compile is 'yes'; expected 'auto' or True or False"),
        ({"policy": "auto"}, "policy is 'auto'; expected 'none' or 'randaugment' or"),
        ({"mix": "cut"}, "mix is 'cut'; expected 'none' or 'mixup' or 'cutmix'"),
        ({"label_smoothing": 1}, "label_smoothing is 1.0; expected a number below 1"),
        ({"erase": 1.5}, "erase is 1.5; expected at most 1"),
        ({"patience": -1}, "patience is -1; expected at least 0"),
        ({"balance": 1.5}, "balance is 1.5; expected at most 1"),
        ({"pretrained_lr": 0}, "pretrained_lr is 0.0; expected a share of lr, above 0 and up to 1"),
        ({"pretrained_lr": 1.5}, "pretrained_lr is 1.5; expected a share of lr"),
    ],
)
def test_settings_that_do_not_exist_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Training(**setting)


def test_settings_do_not_change_once_made():
    with pytest.raises(FrozenInstanceError):
        Training().lr = 1.0
    with pytest.raises(FrozenInstanceError):
        SchoolOptions().seed = 1


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_has_nesterov_momentum_where_there_is_momentum(momentum):
    training = Training(lr=0.3, momentum=momentum, weight_decay=0.01)
    optimizer = training.create_optimizer([nn.Parameter(torch.ones(3))])
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, momentum, 0.01)
    assert group["nesterov"] is (momentum > 0) and group["fused"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parameters_that_were_trained_before_are_a_group_even_if_they_are_all(optimizer):
    training = Training(optimizer=optimizer)
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    for learned, expected in (({second}, [[second], [first]]), ({first, second}, 0)):
        made = training.create_optimizer([first, second], learned)
        groups = [[id(p) for p in group["params"]] for group in made.param_groups]
        assert groups == [list(map(id, g)) for g in expected or [[first, second], []]]
        assert [group.get("learned") for group in made.param_groups] == [True, None]
        for parameter in (first, second):
            parameter.grad = torch.ones(3)
        made.step()  # the fused kernels take a group without parameters
    assert not torch.equal(first, torch.ones(3))


def test_adamw_decays_the_weights_apart_from_the_gradient():
    weight = nn.Parameter(torch.ones(3))
    optimizer = Training(optimizer="adamw", lr=0.1, weight_decay=0.5).create_optimizer([weight])
    assert type(optimizer) is torch.optim.AdamW and optimizer.param_groups[0]["fused"]
    weight.grad = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1 - 0.1 * 0.5))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_networks_compute_in_the_precision_asked_for(precision, dtype):
    layer, images = nn.Linear(4, 2), torch.ones(3, 4)
    with autocast(torch.device("cpu"), precision):
        assert layer(images).dtype == dtype
    assert layer(images).dtype == torch.float32


def test_by_default_a_school_is_on_the_cpu_and_keeps_nothing():
    options = SchoolOptions()
    assert (options.device, options.seed, options.name) == ("cpu", 0, "education")
    assert options.event_log is None and options.checkpoint is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5; expected an integer"),
        ({"lr": math.nan}, "lr is nan; expected a finite number"),
        ({"momentum": math.inf}, "momentum is inf; expected a finite number"),
        ({"clip": -1}, "clip is -1; expected a finite number of at least 0"),
        ({"ema": 1}, "ema is 1.0; expected a number below 1"),
        ({"ema": -0.1}, "ema is -0.1; expected a finite number of at least 0"),
        ({"weight_decay": -1}, "weight_decay is -1; expected a finite number of at least 0"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected 'sgd' or 'adamw'"),
    ],
)
def test_settings_that_cannot_train_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Training(**fields)


@pytest.mark.parametrize("seed", [-1, 0.5, 2**53 + 1])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match=f"seed is {seed}; expected"):
        SchoolOptions(seed=seed)


def test_a_school_is_on_no_device_without_memory():
    with pytest.raises(ValueError, match="device is 'meta'; expected cpu, cuda or cuda:N"):
        SchoolOptions(device="meta")
