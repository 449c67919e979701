"""Devices: those that EduFast computes on, and no others that torch has names for."""

import pytest
import torch

from edufast.utils.devices import check_device, to_device
from edufast.utils.errors import UserError
from tests.remote import Transfer, Transfers


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
@pytest.mark.usefixtures("two_gpus")
def test_devices_that_are_there_pass(name):
    check_device(name)
    check_device(torch.device(name))


@pytest.mark.parametrize("name", ["meta", "mps", "xla:0", "vulkan", "cpu:0", "gpu", "", "cuda:-1"])
@pytest.mark.usefixtures("two_gpus")
def test_other_devices_are_refused_also_where_torch_knows_them(name):
    with pytest.raises(UserError, match=f"^--device is '{name}'; expected cpu, cuda or cuda:N$"):
        check_device(name, "--device")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_too_many_is_refused():
    with pytest.raises(UserError, match=r"^device is 'cuda:2'; expected cuda:0 to cuda:1$"):
        check_device("cuda:2")


def test_a_gpu_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device is 'cuda', but torch finds no CUDA device here"):
        check_device("cuda")


def test_what_goes_to_a_gpu_is_not_waited_for():
    numbers = torch.arange(5)
    with Transfers() as transfers:
        to_device(numbers, torch.device("cuda", 0))
        to_device(numbers, torch.device("cpu"))
    assert transfers.made == [Transfer(pinned=True, non_blocking=True)]
    assert torch.equal(to_device(numbers, torch.device("cpu")), numbers)
