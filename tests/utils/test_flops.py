"""FLOPs are twice the multiply-adds, and counting leaves a model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edufast.utils.flops import TRAINING_FACTOR, forward_flops


def test_a_linear_layer_multiplies_every_input_with_every_output():
    assert forward_flops(nn.Linear(20, 7), (20,)) == 2 * 20 * 7


@pytest.mark.parametrize("groups", [1, 2, 8], ids=["dense", "grouped", "depthwise"])
def test_a_convolution_reads_the_channels_of_its_group_only(groups):
    layer = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups)
    places = 5 * 3  # of 10 x 6, at stride 2
    assert forward_flops(layer, (8, 10, 6)) == 2 * places * 16 * 9 * 8 // groups


def test_a_backward_pass_takes_twice_as_much_again():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    images = torch.zeros(1, 6, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    assert counter.get_total_flops() == TRAINING_FACTOR * forward_flops(model, (6,))


class Attentive(nn.Module):
    """Scaled dot-product attention, which each device has its own fused kernels for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_two_products_of_attention_are_counted(heads):
    tokens, width = 5, 8
    assert forward_flops(Attentive(), (heads, tokens, width)) == 4 * heads * tokens**2 * width


def test_a_transformer_of_torch_is_counted_though_it_would_run_as_one_operator():
    tokens, width, hidden, depth = 5, 8, 32, 2
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
    per_token = 4 * width**2 + 2 * tokens * width + 2 * width * hidden  # multiply-adds
    assert torch.backends.mha.get_fastpath_enabled()
    model = nn.TransformerEncoder(layer, depth)
    assert forward_flops(model, (tokens, width)) == 2 * depth * tokens * per_token
    assert torch.backends.mha.get_fastpath_enabled()


class Moody(nn.Module):
    """Costs more in train mode, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(4, 1), nn.Linear(4, 100)
        self.norm = nn.BatchNorm1d(4)
        self.broken = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.broken:
            raise RuntimeError("broken")
        return (self.large if self.training else self.small)(self.norm(x))


@pytest.mark.parametrize("broken", [False, True])
def test_eval_mode_is_counted_and_every_module_gets_its_mode_back(broken):
    model = nn.Sequential(Moody(), nn.Dropout()).train()
    model[0].norm.eval()  # a mode of one part only
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if broken:
        model[0].broken = True
        with pytest.raises(RuntimeError, match="broken"):
            forward_flops(model, (4,))
    else:
        assert forward_flops(model, (4,)) == 2 * 4
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("where", [{"dtype": torch.bfloat16}, {"device": "meta"}], ids=str)
def test_the_image_is_of_the_type_and_on_the_device_of_the_weights(where):
    assert forward_flops(nn.Conv2d(3, 4, 1, **where), (3, 2, 2)) == 2 * 4 * 3 * 4
