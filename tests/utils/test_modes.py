import pytest
from torch import nn

from edufast.utils.modes import eval_mode, in_eval_mode


def test_every_module_gets_its_own_mode_back():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(), nn.ReLU()))
    model[0].eval()
    model[1][1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2


def test_a_model_whose_train_returns_nothing_is_put_in_eval_mode():
    class Forgetful(nn.Dropout):
        def train(self, mode=True):
            super().train(mode)

    model = Forgetful()
    assert in_eval_mode(model) is model and not model.training
