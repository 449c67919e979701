"""Training from stored logits is training with the teachers."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import edufast.teachers.cached_faculty as cache_module
from edufast.data import Augment
from edufast.distill import KD, create_algorithm
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import Interrupted, UserError
from tests.pair import on_ranks
from tests.remote import Transfer, Transfers
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()  # 144 images
AUGMENT = TRAINING.augment  # 9 views
SLICES = [range(0, 3), range(3, 6)]
OWN = dict(enumerate(SLICES))


def cached(folder, teachers=None, *, stored_dtype=torch.float32, **options):
    """A faculty with an open store."""
    teachers = tiny_faculty(*SLICES) if teachers is None else teachers
    faculty = CachedFaculty(list(teachers), folder, stored_dtype=stored_dtype, **options)
    faculty.prepare(DATA, AUGMENT)
    return faculty


def test_filling_asks_each_teacher_about_its_own_once(tmp_path, monkeypatch):
    faculty = cached(tmp_path)
    assert faculty.store.views == 9
    assert faculty.fill(OWN) == 144 * 9
    for k, classes in OWN.items():
        own = np.isin(DATA.train.labels, classes)
        assert (faculty.store.stored(k) == own[:, None]).all()
    assert faculty.fill(OWN) == 0
    assert faculty.fill({1: range(6)}) == 72 * 9 and faculty.store.stored(1).all()
    # What is there is what the teacher says about the view of that number.
    loader = school(faculty).loader
    monkeypatch.setattr(Faculty, "logits", lambda *_, **__: pytest.fail("a teacher was asked"))
    for batch in loader.epoch(3):
        logits, computed = faculty.answer(1, batch, slice(None))
        with torch.no_grad():
            torch.testing.assert_close(logits, faculty.model(1)(batch.images))
        assert computed == 0


def school(faculty, *, target="routed", seed=0, order="mixed", training=TRAINING):
    torch.manual_seed(seed)
    slices = [list(teacher.classes) for teacher in faculty]
    if target == "full":
        grades = [Grade(1, range(4), [0], target="full"), Grade(2, [4, 5], [0], target="full")]
    else:
        grades = [
            Grade(1, slices[0], [0], target=target),
            Grade(2, slices[1], [0, 1], target=target),
        ]
    curriculum = Curriculum(grades, order=order)
    student = Student(tiny_model(), 2, input_size=(3, 16, 16), seed=seed)
    return School(
        student,
        faculty,
        curriculum,
        DATA,
        algorithm=KD(alpha=0.1),
        training=training,
        options=SchoolOptions(seed=seed),
    )


def same_weights(a, b):
    states = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in states)


def distance(a, b):
    """Of two models' weights, in relation to their size."""
    a, b = (torch.cat([p.flatten() for p in model.parameters()]) for model in (a, b))
    return ((a - b).norm() / a.norm()).item()


@pytest.mark.parametrize(
    ("target", "order"),
    [("routed", "mixed"), ("routed", "slices"), ("gated", "mixed"), ("full", "mixed")],
)
def test_training_from_a_cache_is_training_with_teachers(tmp_path, target, order):
    """To the same bits in float32, while it fills, from what others left, and filled ahead."""
    faculty = tiny_faculty(range(6)) if target == "full" else tiny_faculty(*SLICES)
    live = school(faculty, target=target, order=order)
    expected = live.fit()
    lazy, ahead = (cached(tmp_path / name, faculty) for name in ("lazy", "ahead"))
    filling = school(lazy, target=target, order=order)
    ahead.fill(filling.curriculum.shown_to(faculty))
    assert same_weights(filling.fit(), expected)
    assert 0 < filling.progress.teacher_flops <= live.progress.teacher_flops
    school(lazy, target=target, order=order, seed=5).fit()  # other views, other batches
    for stored in (lazy, ahead):
        again = school(stored, target=target, order=order)
        assert same_weights(again.fit(), expected)
        assert again.progress.teacher_flops == 0


def test_rounded_logits_teach_nearly_the_same(tmp_path):
    faculty = tiny_faculty(*SLICES)
    expected, other = school(faculty).fit(), school(faculty, seed=1).fit()
    distances = []
    for top_k in (None, 2):
        rounded = cached(tmp_path / str(top_k), faculty, stored_dtype=torch.bfloat16, top_k=top_k)
        rounded.fill(OWN)
        distances.append(distance(school(rounded).fit(), expected))
    assert 0 < min(distances) < max(distances) < 0.001 < distance(other, expected)


@pytest.mark.parametrize("top_k", [None, 1])
def test_rounded_logits_are_rounded_also_when_they_are_new(tmp_path, top_k):
    """A training that is killed has stored logits, which it reads when it goes on."""
    faculty = cached(tmp_path, stored_dtype=torch.bfloat16, top_k=top_k)
    filling = school(faculty).fit()
    assert same_weights(school(faculty).fit(), filling)


def test_logits_go_to_a_gpu_without_waiting_whether_or_not_they_are_stored(tmp_path):
    faculty = cached(tmp_path)
    batch = next(school(faculty).loader.epoch(0))
    faculty.device = torch.device("cuda", 0)
    for expected in (3, 1):  # logits; what is missing, and where
        with Transfers() as transfers:
            faculty.answer(1, batch, slice(0, 8))
        assert transfers.made == [Transfer(pinned=True, non_blocking=True)] * expected


def test_damaged_rows_are_computed_again(tmp_path):
    faculty = cached(tmp_path)
    faculty.fill(OWN)
    path = tmp_path / "teacher0.logits"
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    expected = school(tiny_faculty(*SLICES)).fit()
    again = school(cached(tmp_path))
    assert same_weights(again.fit(), expected) and again.progress.teacher_flops > 0
    assert 0 < faculty.fill(OWN) <= 182 and path.read_bytes()[100:3000] != bytes(2900)


@contextmanager
def interrupted_at_once():
    yield lambda: True


def test_filling_stops_at_ctrl_c_and_goes_on(tmp_path, monkeypatch):
    faculty = cached(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "deferred_interrupt", interrupted_at_once)
        with pytest.raises(Interrupted):
            faculty.fill(OWN)
    begun = sum(int(faculty.store.stored(k).sum()) for k in (0, 1))
    assert 0 < begun < 144 * 9
    assert cached(tmp_path).fill(OWN) == 144 * 9 - begun


def fill(folder, shard, stopped):
    """Number of views computed, after the first round if it was ``stopped`` there."""
    teachers = [replace(teacher, shard=shard) for teacher in tiny_faculty(*SLICES)]
    faculty = cached(folder, teachers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "_FILL_BATCH", 20)  # 33 batches of each: one rank has one more
        if stopped:
            with patch.context() as told, pytest.raises(Interrupted):
                told.setattr(cache_module, "deferred_interrupt", interrupted_at_once)
                faculty.fill(OWN)
        return faculty.fill(OWN)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard", [False, True])
def test_two_ranks_store_the_bytes_of_one_process_also_if_they_are_stopped(tmp_path, shard):
    one, two = tmp_path / "one", tmp_path / "two"
    assert fill(one, False, False) == 144 * 9
    assert on_ranks(fill, two, shard, True) == [144 * 9 - 40] * 2
    assert contents(one) == contents(two)
    assert on_ranks(fill, two, shard, False) == [0, 0]


def answered(folder, shard):
    """Number of logits that this rank found and computed, and what it was told."""
    faculty = tiny_faculty(*SLICES)
    stored = cached(folder, [replace(teacher, shard=shard) for teacher in faculty])
    found = computed = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for batch in school(stored).loader.epoch(0):
            logits, count = stored.answer(0, batch, slice(None))
            torch.testing.assert_close(logits, faculty.logits(0, batch.images))
            found, computed = found + len(logits) - count, computed + count
    return found, computed, [str(warning.message) for warning in told]


def test_ranks_read_what_is_stored_and_in_a_training_store_nothing(tmp_path):
    (found, computed, (line,)), other = on_ranks(answered, tmp_path, False)
    assert (found, computed) == (0, 32) and other == (0, 32, [])
    assert "lacks logits of teacher 0 (teacher); they are computed at every step" in line
    with pytest.raises(AssertionError, match="which is sharded and runs only on all ranks"):
        on_ranks(answered, tmp_path, True)
    assert fill(tmp_path, False, False) == 144 * 9
    assert on_ranks(answered, tmp_path, True) == [(32, 0, []), (32, 0, [])]


def test_a_school_checks_what_its_faculty_stored(tmp_path):
    cached(tmp_path)
    with pytest.raises(UserError, match="another augmentation"):
        school(
            CachedFaculty(list(tiny_faculty(*SLICES)), tmp_path, stored_dtype=torch.float32),
            training=replace(TRAINING, augment=Augment(pad=2)),
        )


def test_features_are_not_stored(tmp_path):
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    curriculum = Curriculum.single(range(6), 1, teachers=[0], target="full")
    faculty = cached(tmp_path, tiny_faculty(range(6)))
    with pytest.raises(ValueError, match="faculty: FitNet reads the teachers' features"):
        School(student, faculty, curriculum, DATA, algorithm=create_algorithm("fitnet"))


def test_nothing_is_answered_before_the_store_is_open(tmp_path):
    faculty = CachedFaculty(list(tiny_faculty(*SLICES)), tmp_path)
    with pytest.raises(RuntimeError, match="not open yet"):
        faculty.fill(OWN)


def test_logits_are_stored_as_of_the_weights_that_gave_them(tmp_path):
    """The faculty runs a copy: what is learned afterwards is another teacher."""
    teachers = list(tiny_faculty(*SLICES))
    faculty = CachedFaculty(teachers, tmp_path, stored_dtype=torch.float32)
    with torch.no_grad():
        teachers[0].model[-1].weight.mul_(2)
    faculty.prepare(DATA, AUGMENT)
    faculty.fill(OWN)
    with pytest.raises(UserError, match="holds logits of another teacher 0"):
        cached(tmp_path, teachers)
    assert cached(tmp_path, tiny_faculty(*SLICES)).fill(OWN) == 0  # as the teachers were
