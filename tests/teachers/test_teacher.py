"""One teacher; what it expects of images is in test_preprocessing.py."""

from __future__ import annotations

import pytest
import torch

from edufast.teachers.teacher import Teacher
from edufast.utils.errors import UserError
from tests.tiny import Constant, tiny_model


@pytest.mark.parametrize("classes", [[1, 1], []])
def test_it_names_each_class_once(classes):
    with pytest.raises(ValueError, match="at least one, each once"):
        Teacher(Constant(2), classes)


def test_its_fingerprint_is_of_every_weight_and_of_nothing_else():
    model, other = tiny_model(4), tiny_model(4)
    other.load_state_dict(model.state_dict())
    first = Teacher(model, range(4)).fingerprint
    assert first == Teacher(other.eval(), range(2, 6), "another", shard=True).fingerprint
    for tensor in other.state_dict().values():
        before = tensor.clone()
        tensor.add_(1)
        assert Teacher(other, range(4)).fingerprint != first
        tensor.copy_(before)
    assert Teacher(other, range(4)).fingerprint == first


class Counting(torch.nn.Linear):
    """Keeps a Python object in its state, as quantised layers do."""

    def get_extra_state(self):
        return {"calls": 3}


def test_a_state_that_is_not_of_tensors_has_no_fingerprint():
    with pytest.raises(UserError, match=r"'_extra_state' of odd is no plain tensor"):
        _ = Teacher(Counting(2, 2), range(2), "odd").fingerprint


def test_weights_without_values_have_no_fingerprint():
    with pytest.raises(UserError, match=r"'.*weight' of empty is no plain tensor"):
        _ = Teacher(tiny_model(2).to("meta"), range(2), "empty").fingerprint


def test_an_absent_one_has_no_weights():
    assert Teacher(tiny_model(2), range(2)).has_weights
    assert not Teacher(torch.nn.Identity(), range(2)).has_weights


def test_its_fingerprint_is_of_buffers_that_no_file_holds_too():
    models = [tiny_model(2), tiny_model(2)]
    models[1].load_state_dict(models[0].state_dict())
    for factor, model in enumerate(models):
        model.register_buffer("scale", torch.tensor(float(factor)), persistent=False)
    first, second = (Teacher(model, range(2)).fingerprint for model in models)
    assert first != second
    models[1].scale.zero_()
    assert Teacher(models[1], range(2)).fingerprint == first
