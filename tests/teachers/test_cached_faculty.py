from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import edufast.teachers.cached_faculty as cache_module
from edufast.data import Augment, Samples
from edufast.distill import KD
from edufast.student.student import Student
from edufast.teachers.cached_faculty import LogitCache
from edufast.teachers.faculty import Faculty, Teacher
from edufast.teachers.logit_store import RowFormat, Rows
from edufast.training.curriculum import Curriculum, Grade, questions
from edufast.training.school import School
from edufast.utils.errors import Interrupted, UserError
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()  # 144 images
AUGMENT = TRAINING.augment  # 9 views
SLICES = [range(0, 3), range(3, 6)]
OWN = dict(enumerate(SLICES))
GENERATOR = torch.Generator().manual_seed(0)

WHOLE32 = RowFormat.of(5, torch.float32, None)
WHOLE16 = RowFormat.of(5, torch.bfloat16, None)
TOP = RowFormat.of(40, torch.bfloat16, 3)


def rows_at(tmp_path, row=WHOLE16, count=200):
    return Rows(tmp_path / "rows", count, row)


def some(n, classes):
    return 5 * torch.randn(n, classes, generator=GENERATOR)


# An odd and an even number of classes: bfloat16 rows are filled up to whole words.
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_rows_come_back(tmp_path, classes, dtype):
    logits = some(10, classes)
    row = RowFormat.of(classes, dtype, None)
    assert row.encode(logits).shape == (10, row.width)
    assert torch.equal(row.decode(row.encode(logits)), logits.to(dtype).float())


def test_top_rows_keep_the_largest_and_share_out_the_rest():
    logits = some(20, 40)
    read = TOP.decode(TOP.encode(logits))
    values, classes = logits.topk(3)
    assert torch.equal(read.gather(1, classes), values.bfloat16().float())
    others = torch.ones_like(read).scatter(1, classes, 0).bool()
    rest = read[others].view(20, 37)
    assert (rest == rest[:, :1]).all()
    mass = logits.exp()[others].view(20, 37).sum(1)
    torch.testing.assert_close(rest.exp().sum(1), mass)
    # As a distribution: the same up to bfloat16 at the top.
    before, after = logits.softmax(1).gather(1, classes), read.softmax(1).gather(1, classes)
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.01)


def test_class_numbers_beyond_15_bits_fit():
    row = RowFormat.of(65536, torch.bfloat16, 1)
    logits = torch.zeros(1, 65536)
    logits[0, 65535] = -2 + 9
    assert row.decode(row.encode(logits)).argmax().item() == 65535


def test_top_of_few_classes_is_everything():
    assert RowFormat.of(3, torch.bfloat16, 3) == RowFormat.of(3, torch.bfloat16, None)


@pytest.mark.parametrize(
    ("dtype", "top_k"), [(torch.float16, None), (torch.bfloat16, 0), (torch.float32, 3)]
)
def test_formats_there_are_not(dtype, top_k):
    with pytest.raises(ValueError, match="expected"):
        RowFormat.of(10, dtype, top_k)


@pytest.mark.parametrize("row", [WHOLE32, WHOLE16, TOP], ids=["float32", "bfloat16", "top"])
def test_a_row_never_written_is_not_stored(tmp_path, row):
    rows = rows_at(tmp_path, row)
    places = np.array([7, 199, 0])
    assert not rows.stored().any() and not rows.read(places)[1].any()
    logits = some(3, row.classes)
    rows.write(places, logits)
    read, valid = Rows(tmp_path / "rows", 200, row).read(places[::-1].copy())
    assert valid.all() and torch.equal(read, row.decode(row.encode(logits)).flip(0))
    assert np.flatnonzero(rows.stored()).tolist() == [0, 7, 199]


@pytest.mark.parametrize("row", [WHOLE32, WHOLE16, TOP], ids=["float32", "bfloat16", "top"])
def test_any_flipped_bit_or_torn_row_counts_as_not_stored(tmp_path, row):
    rows = rows_at(tmp_path, row, count=4)
    rows.write(np.arange(4), some(4, row.classes))
    path, size = tmp_path / "rows", 4 * (row.width + 1)
    good = path.read_bytes()
    for bit in range(8 * size):
        damaged = bytearray(good)
        damaged[size + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert rows.stored().tolist() == [True, False, True, True]
    for torn in range(1, size):
        path.write_bytes(
            good[:size] + good[size : size + torn] + bytes(size - torn) + good[2 * size :]
        )
        assert not rows.read(np.array([1]))[1][0]
    path.write_bytes(good[size : 2 * size] + good[size:])  # a good row in another's place
    assert rows.stored().tolist() == [False, True, True, True]


def test_a_shortened_file_loses_only_what_it_lost(tmp_path):
    rows = rows_at(tmp_path, count=50)
    rows.write(np.arange(50), some(50, 5))
    del rows
    path = tmp_path / "rows"
    path.write_bytes(path.read_bytes()[:-30])
    assert rows_at(tmp_path, count=50).stored().tolist() == [True] * 48 + [False] * 2


def test_a_disk_that_takes_no_more_is_told_in_a_line(tmp_path, monkeypatch):
    rows = rows_at(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(UserError, match=r"cannot write .*rows: No space left on device"):
        rows.write(np.arange(1), some(1, 5))


# The cache as a whole.


def test_filling_asks_each_teacher_about_its_own_once(tmp_path, monkeypatch):
    faculty = tiny_faculty(*SLICES)
    cache = faculty.cache(tmp_path, DATA, AUGMENT, dtype=torch.float32)
    assert cache.views == 9
    assert cache.fill(OWN) == 144 * 9
    for k, classes in OWN.items():
        own = np.isin(DATA.train.labels, classes)
        assert (cache.stored(k) == own[:, None]).all()
    assert cache.fill(OWN) == 0
    assert cache.fill({1: range(6)}) == 72 * 9 and cache.stored(1).all()
    # What is there is what the teacher says about the view of that number.
    loader = school(faculty)._loaders[0]
    monkeypatch.setattr(Faculty, "logits", lambda *_, **__: pytest.fail("a teacher was asked"))
    for batch in loader.epoch(3):
        logits, asked = cache.logits(1, batch, slice(None))
        with torch.no_grad():
            torch.testing.assert_close(logits, faculty.model(1)(batch.images))
        assert asked == 0


def school(faculty, cache=None, *, target="routed", seed=0, order="mixed", training=TRAINING):
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
    algorithm = KD(alpha=0.1)
    return School(
        student, faculty, curriculum, DATA,
        algorithm=algorithm, training=training, seed=seed, cache=cache,
    )  # fmt: skip


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
    lazy, ahead = (
        faculty.cache(tmp_path / name, DATA, AUGMENT, dtype=torch.float32)
        for name in ("lazy", "ahead")
    )
    filling = school(faculty, lazy, target=target, order=order)
    ahead.fill(questions(filling.curriculum, faculty))
    assert same_weights(filling.fit(), expected)
    assert 0 < filling.progress.teacher_flops <= live.progress.teacher_flops
    school(faculty, lazy, target=target, order=order, seed=5).fit()  # other views, other batches
    for cache in (lazy, ahead):
        cached = school(faculty, cache, target=target, order=order)
        assert same_weights(cached.fit(), expected)
        assert cached.progress.teacher_flops == 0


def test_rounded_logits_teach_nearly_the_same(tmp_path):
    faculty = tiny_faculty(*SLICES)
    expected, other = school(faculty).fit(), school(faculty, seed=1).fit()
    distances = []
    for dtype, top_k in ((torch.bfloat16, None), (torch.bfloat16, 2)):
        cache = faculty.cache(tmp_path / str(top_k), DATA, AUGMENT, dtype=dtype, top_k=top_k)
        cache.fill(OWN)
        distances.append(distance(school(faculty, cache).fit(), expected))
    assert 0 < min(distances) < max(distances) < 0.001 < distance(other, expected)


def test_damaged_rows_are_computed_again(tmp_path):
    faculty = tiny_faculty(*SLICES)
    cache = faculty.cache(tmp_path, DATA, AUGMENT, dtype=torch.float32)
    cache.fill(OWN)
    path = tmp_path / "teacher0.logits"
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    expected = school(faculty).fit()
    again = school(faculty, faculty.cache(tmp_path, DATA, AUGMENT, dtype=torch.float32))
    assert same_weights(again.fit(), expected) and again.progress.teacher_flops > 0
    assert 0 < cache.fill(OWN) <= 182 and path.read_bytes()[100:3000] != bytes(2900)


def test_filling_stops_at_ctrl_c_and_goes_on(tmp_path, monkeypatch):
    @contextmanager
    def interrupted_at_once():
        yield lambda: True

    faculty = tiny_faculty(*SLICES)
    cache = faculty.cache(tmp_path, DATA, AUGMENT)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "deferred_interrupt", interrupted_at_once)
        with pytest.raises(Interrupted):
            cache.fill(OWN)
    begun = sum(int(cache.stored(k).sum()) for k in (0, 1))
    assert 0 < begun < 144 * 9
    assert faculty.cache(tmp_path, DATA, AUGMENT).fill(OWN) == 144 * 9 - begun


def test_questions_follow_the_targets():
    faculty = tiny_faculty(*SLICES, range(6))
    grades = [
        Grade(1, [0, 1, 2]),
        Grade(1, [3, 4], [0], target="gated"),
        Grade(1, [5], [0, 1], target="routed"),
        Grade(1, [], [2], target="full"),
    ]
    asked = questions(Curriculum(grades), faculty)
    assert asked == {0: {0, 1, 2, 3, 4}, 1: {3, 4, 5}, 2: set(range(6))}


def test_teachers_may_be_added(tmp_path):
    faculty = tiny_faculty(*SLICES)
    first = Faculty([faculty[0]])
    first.cache(tmp_path, DATA, AUGMENT).fill({0: SLICES[0]})
    cache = faculty.cache(tmp_path, DATA, AUGMENT)
    assert len(json.loads((tmp_path / "header.json").read_text())["teachers"]) == 2
    assert cache.fill(OWN) == 72 * 9
    first.cache(tmp_path, DATA, AUGMENT)
    assert len(json.loads((tmp_path / "header.json").read_text())["teachers"]) == 2


def other_weights(faculty):
    model = tiny_model(3)
    model.load_state_dict(faculty[1].model.state_dict())
    with torch.no_grad():
        model[0][0].weight[0, 0, 0, 0] += 1e-6
    return Faculty([faculty[0], Teacher(model, SLICES[1])])


def other_pixel():
    images = DATA.train.images.copy()
    images[50, 3, 3, 0] ^= 1
    return replace(DATA, train=Samples(images, DATA.train.labels))


# One thing different at a time, each of which would give a student the wrong logits.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (other_weights(f), DATA, AUGMENT), "another teacher 1: teacher .sha256 "),
        (lambda f: (Faculty([f[1], f[0]]), DATA, AUGMENT), "another teacher 0"),
        (lambda f: (Faculty(list(f), dtype=torch.bfloat16), DATA, AUGMENT), "another precision"),
        (lambda f: (f, other_pixel(), AUGMENT), "another data set"),
        (lambda f: (f, replace(DATA, mean=(0.3, 0.3, 0.4)), AUGMENT), "another normalisation"),
        (lambda f: (f, DATA, Augment(pad=1)), "another augmentation: .*; expected .*flip"),
        (lambda f: (f, DATA, Augment(1, flip=False, replay=9)), "another augmentation"),
    ],
)
def test_what_the_logits_do_not_belong_to_is_refused(tmp_path, change, message):
    faculty = tiny_faculty(*SLICES)
    cache = faculty.cache(tmp_path, DATA, AUGMENT)
    changed, data, augment = change(faculty)
    with pytest.raises(UserError, match=message):
        changed.cache(tmp_path, data, augment)
    with pytest.raises(UserError, match=message):
        cache.check(changed, data, augment)
    cache.check(Faculty(list(faculty)), replace(DATA), Augment(pad=1, flip=False))


def test_another_way_of_storing_is_refused(tmp_path):
    faculty = tiny_faculty(*SLICES)
    faculty.cache(tmp_path, DATA, AUGMENT)
    with pytest.raises(UserError, match=r"another dtype: torch.bfloat16; expected torch.float32"):
        faculty.cache(tmp_path, DATA, AUGMENT, dtype=torch.float32)
    with pytest.raises(UserError, match="another top_k: null; expected 2"):
        faculty.cache(tmp_path, DATA, AUGMENT, top_k=2)


def test_a_school_checks_its_cache(tmp_path):
    faculty = tiny_faculty(*SLICES)
    cache = faculty.cache(tmp_path, DATA, AUGMENT)
    with pytest.raises(UserError, match="another augmentation"):
        school(faculty, cache, training=replace(TRAINING, augment=Augment(pad=2)))
    other = school(faculty, cache)
    other.algorithm.reads_features = True
    with pytest.raises(ValueError, match="cache: KD reads the teachers' features"):
        other._check()


def test_uncountable_views_are_refused(tmp_path):
    augment = Augment(random_resized_crop=(0.1, 1.0))
    with pytest.raises(UserError, match=r"expected augment\.replay"):
        LogitCache(tmp_path, tiny_faculty(*SLICES), DATA, augment)
