"""Models and names inside the wrappers of torch.compile and data parallelism."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edufast.models.wrappers import unwrapped, wrapper_prefix


def test_the_model_is_found_however_deep_it_lies() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert unwrapped(model) is model
    compiled = torch.compile(model)
    assert unwrapped(compiled) is model
    assert unwrapped(nn.DataParallel(compiled)) is model


def test_a_model_with_a_part_called_module_is_no_wrapper() -> None:
    model = nn.Module()
    model.module = nn.Linear(2, 2)
    assert unwrapped(model) is model


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["fc.weight", "fc.bias"], ""),
        (["module.fc.weight", "module.fc.bias"], "module."),
        (["module._orig_mod.fc.weight"], "module._orig_mod."),
        (["module.fc.weight", "fc.bias"], ""),
        ([], ""),
    ],
)
def test_prefixes_are_those_of_all_names(names: list[str], prefix: str) -> None:
    assert wrapper_prefix(names) == prefix
