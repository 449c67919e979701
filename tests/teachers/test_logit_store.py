"""A folder of logits takes only what belongs there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from edufast.data import Augment, Samples
from edufast.teachers.logit_store import LogitStore
from edufast.teachers.teacher import Teacher
from edufast.utils.errors import UserError
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
SLICES = [range(0, 3), range(3, 6)]


def store(folder, teachers=None, **changed):
    arguments = {"data": DATA, "augment": TRAINING.augment}
    stored = {"precision": torch.float32, "dtype": torch.bfloat16, "top_k": None}
    teachers = list(tiny_faculty(*SLICES)) if teachers is None else teachers
    return LogitStore(folder, teachers, **{**arguments, **stored, **changed})


def test_teachers_may_be_added(tmp_path):
    both = list(tiny_faculty(*SLICES))
    logits = torch.randn(3, 3).bfloat16().float()
    store(tmp_path, both[:1]).write(0, np.array([4, 7, 9]), logits)
    second = store(tmp_path, both)
    assert len(json.loads((tmp_path / "header.json").read_text())["teachers"]) == 2
    assert torch.equal(second.read(0, np.array([4, 7, 9]))[0], logits)
    assert not second.stored(1).any()
    store(tmp_path, both[:1])
    assert len(json.loads((tmp_path / "header.json").read_text())["teachers"]) == 2


def other_weights(teachers):
    model = tiny_model(3)
    model.load_state_dict(teachers[1].model.state_dict())
    with torch.no_grad():
        model[0][0].weight[0, 0, 0, 0] += 1e-6
    return [teachers[0], Teacher(model, SLICES[1])]


def other_pixel():
    images = DATA.train.images.copy()
    images[50, 3, 3, 0] ^= 1
    return replace(DATA, train=Samples(images, DATA.train.labels))


# One thing different at a time, each of which would give a student the wrong logits.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"teachers": other_weights(t)}, "another teacher 1: teacher .sha256 "),
        (lambda t: {"teachers": t[::-1]}, "another teacher 0"),
        (lambda t: {"teachers": [t[0], replace(t[1], mean=(0.5,) * 3)]}, r"images .16, 0\.3, 0\.3"),
        (lambda t: {"teachers": [t[0], replace(t[1], std=(0.5,) * 3)]}, "another teacher 1"),
        (lambda t: {"teachers": [t[0], replace(t[1], image_size=24)]}, "another teacher 1"),
        (lambda t: {"precision": torch.bfloat16}, "another precision"),
        (lambda t: {"data": other_pixel()}, "another data set"),
        (lambda t: {"data": replace(DATA, mean=(0.3, 0.3, 0.4))}, "another normalisation"),
        (lambda t: {"augment": Augment(pad=1)}, "another augmentation: .*; expected .*flip"),
        (lambda t: {"augment": Augment(1, flip=False, replay=9)}, "another augmentation"),
        (lambda t: {"dtype": torch.float32}, "another dtype: torch.bfloat16; expected torch.float"),
        (lambda t: {"top_k": 2}, "another top_k: null; expected 2"),
    ],
)
def test_what_the_logits_do_not_belong_to_is_refused(tmp_path, change, message):
    teachers = list(tiny_faculty(*SLICES))
    store(tmp_path, teachers)
    with pytest.raises(UserError, match=message):
        store(tmp_path, **{"teachers": teachers, **change(teachers)})
    same = [teachers[0], replace(teachers[1], mean=DATA.mean, std=DATA.std, image_size=16)]
    store(tmp_path, same, data=replace(DATA), augment=Augment(pad=1, flip=False))


def test_uncountable_views_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected augment\.replay"):
        store(tmp_path, augment=Augment(random_resized_crop=(0.1, 1.0)))


@pytest.mark.parametrize("augment", [Augment(replay=10**12), Augment(replay=2**63 - 1)])
def test_more_views_than_a_store_can_hold_are_refused(tmp_path, augment):
    with pytest.raises(UserError, match=r"views of each of \d+ .* expected at most \d+"):
        store(tmp_path, augment=augment)


def test_a_damaged_header_is_told_in_a_line(tmp_path):
    store(tmp_path)
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(UserError, match=r"header.json is damaged; delete"):
        store(tmp_path)


def test_files_of_another_store_or_teacher_hold_nothing_of_this(tmp_path):
    store(tmp_path).write(0, np.array([4]), torch.randn(1, 3))
    (tmp_path / "header.json").unlink()
    assert not store(tmp_path, augment=Augment(pad=0, flip=True)).stored(0).any()
    store(tmp_path / "b").write(0, np.array([4]), torch.randn(1, 3))
    (tmp_path / "b" / "teacher0.logits").replace(tmp_path / "b" / "teacher1.logits")
    assert not store(tmp_path / "b").stored(1).any()


@pytest.mark.parametrize("key", ["name", "sha256", "images"])
def test_a_header_that_lacks_something_of_a_teacher_is_of_another(tmp_path, key):
    store(tmp_path)
    header = tmp_path / "header.json"
    header.write_text(header.read_text().replace(f'"{key}"', f'"{key}s"'))
    with pytest.raises(UserError, match=r"of another teacher 0: .*; expected teacher"):
        store(tmp_path)
