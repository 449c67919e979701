import gc
import itertools
import json
import math
import os
import pickle
import re
import warnings
import weakref
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

import pytest
import torch

import edufast.training.school as school_module
from edufast.distill import KD, create_algorithm
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.evaluation import Accuracy
from edufast.training.growth import Growth
from edufast.training.loaders import validation_batches
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import Interrupted, TrainingError
from edufast.utils.event_log import EventLog
from tests.pair import on_ranks
from tests.tiny import TRAINING, Viewing, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
SLICES = [range(0, 2), range(2, 4), range(4, 6)]


def school(
    curriculum=None,
    faculty=None,
    *,
    seed=0,
    checkpoint=None,
    event_log=None,
    algorithm=None,
    training=TRAINING,
):
    torch.manual_seed(seed)
    curriculum = curriculum or Curriculum.graded(SLICES, 4, shares=[1, 1, 2])
    student = Student(tiny_model(), curriculum.fragments[-1], input_size=(3, 16, 16), seed=seed)
    faculty = tiny_faculty(*SLICES) if faculty is None else faculty
    options = SchoolOptions(seed=seed, event_log=event_log, checkpoint=checkpoint)
    algorithm = algorithm or KD(alpha=0.9)
    return School(
        student, faculty, curriculum, DATA, algorithm=algorithm, training=training, options=options
    )


def events(path, kind):
    return [e for line in path.read_text().splitlines() if (e := json.loads(line))["event"] == kind]


def validation(trained):
    loader = validation_batches(DATA, trained.curriculum, 2, 16, device=trained.device)
    return loader.epoch(0)


def same_weights(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_plain_training_learns_the_task():
    curriculum = Curriculum.single(range(6), 12)
    trained = school(curriculum, Faculty([]))
    graduate = trained.fit()
    assert type(graduate) is torch.nn.Sequential and not graduate.training
    assert trained.progress.accuracy > 0.9
    tiny_model().load_state_dict(graduate.state_dict())


def test_every_grade_is_recorded_with_its_growth(tmp_path):
    path = tmp_path / "metrics.jsonl"
    trained = school(event_log=EventLog(path))
    trained.fit()
    grades = events(path, "grade")
    assert [(e["grade"], e["fragments"], e["classes"]) for e in grades] == [
        (1, 1, 2),
        (2, 2, 4),
        (3, 3, 6),
    ]
    assert [sum(a is not None for a in e["slice_accuracy"]) for e in grades] == [1, 2, 3]
    assert all(len(e["slice_accuracy_masked"]) == 3 for e in grades)
    epochs = events(path, "epoch")
    assert [(e["grade"], e["epoch"]) for e in epochs] == [(1, 0), (2, 0), (3, 0), (3, 1)]
    assert [e["samples"] for e in epochs] == [48, 48 + 96, 48 + 96 + 144, 48 + 96 + 288]
    assert trained.progress.samples == epochs[-1]["samples"]


def test_the_best_epoch_is_the_first_best_of_those_with_all_classes(monkeypatch):
    accuracies = iter([0.9, 0.8, 0.3, 0.4, 0.4, 0.2])

    def validate(self):
        self.progress.accuracy = next(accuracies)
        return Accuracy(self.progress.accuracy, (), ())

    monkeypatch.setattr(School, "validate", validate)
    curriculum = Curriculum.graded(SLICES, 6, shares=[1, 1, 4])
    trained = school(curriculum)
    trained.fit()
    assert (trained.progress.best_accuracy, trained.progress.best_epoch) == (0.4, 4)


def test_the_last_grade_ends_where_validation_gets_no_better(tmp_path, monkeypatch):
    # Better than ever in the second grade, whose classes are not all; then in the fourth epoch.
    accuracies = iter([0.2, 0.9, 0.3, 0.5, 0.5, 0.4])

    def validate(self):
        self.progress.accuracy = next(accuracies)
        return Accuracy(self.progress.accuracy, (), ())

    monkeypatch.setattr(School, "validate", validate)
    curriculum, log = Curriculum.graded(SLICES, 9, shares=[1, 1, 7]), tmp_path / "metrics.jsonl"
    setting = {"training": replace(TRAINING, patience=2), "checkpoint": tmp_path / "checkpoint"}
    graduate = school(curriculum, event_log=EventLog(log), **setting).fit()
    assert [(e["grade"], e["epoch"]) for e in events(log, "grade")] == [(1, 0), (2, 0), (3, 3)]
    assert same_weights(school(curriculum, **setting).fit(), graduate)  # and no epoch is added


def test_compute_is_what_was_computed():
    trained = school()
    trained.fit()
    cost, student = trained.progress, trained.student
    per_image = sum(
        3 * images * (sum(f.flops for f in student.fragments[:grown]))
        for grown, images in ((1, 48), (2, 96), (3, 288))
    )
    # The first fragment only runs forward in the second half of the last grade.
    per_image -= 2 * 144 * student.fragments[0].flops
    # Heads come on top of the fragments, and cost less than they do.
    assert per_image < cost.student_flops < 1.5 * per_image
    teacher = [trained.faculty.flops(k, (3, 16, 16)) for k in range(3)]
    assert cost.teacher_flops == teacher[0] * 48 + sum(teacher[:2]) * 96 + sum(teacher) * 288


def test_small_images_cost_less_and_only_the_student_sees_them(monkeypatch):
    sizes = [8, 12, None]
    graded = Curriculum.graded(SLICES, 4, shares=[1, 1, 2])
    grades = [replace(g, image_size=s) for g, s in zip(graded.grades, sizes, strict=True)]
    trained, plain = school(replace(graded, grades=grades)), school(graded)
    seen = []
    train_step = School.train_step

    def recording(self, batch):
        seen.append((self.student.image_size, batch.images.shape[-1]))
        return train_step(self, batch)

    monkeypatch.setattr(School, "train_step", recording)
    trained.fit()
    monkeypatch.undo()
    plain.fit()
    assert list(dict.fromkeys(seen)) == [(8, 16), (12, 16), (None, 16)]
    assert trained.progress.teacher_flops == plain.progress.teacher_flops
    # A quarter and 9 of 16 parts of the arithmetic of convolutions.
    by_size = {}
    for size in sizes:
        trained.student.image_size = size
        by_size[size] = [fragment.flops for fragment in trained.student.fragments]
    assert by_size[8][0] * 4 == by_size[None][0] and by_size[12][0] * 16 == by_size[None][0] * 9
    saved = 3 * 48 * (by_size[None][0] - by_size[8][0])
    saved += 3 * 96 * (sum(by_size[None][:2]) - sum(by_size[12][:2]))
    assert trained.progress.student_flops == plain.progress.student_flops - saved


@pytest.mark.parametrize("stop", [2, 3, 4, 9, 11, 20])  # within epochs, at their ends, frozen
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, stop):
    graded = Curriculum.graded(SLICES, 4, shares=[1, 1, 2])
    first, *rest = graded.grades
    curriculum = replace(graded, grades=[replace(first, image_size=8), *rest])
    whole, log = tmp_path / "whole.jsonl", EventLog(tmp_path / "log.jsonl")
    expected = school(curriculum, seed=3, event_log=EventLog(whole)).fit()

    steps = 0
    step = School.train_step

    def counting(self, batch):
        nonlocal steps
        steps += 1
        return step(self, batch)

    from contextlib import contextmanager

    @contextmanager
    def interrupted_after_stop():
        yield lambda: steps == stop

    monkeypatch.setattr(School, "train_step", counting)
    monkeypatch.setattr(school_module, "deferred_interrupt", interrupted_after_stop)
    path = tmp_path / "c.pt"
    with pytest.raises(Interrupted):
        school(curriculum, seed=3, checkpoint=path, event_log=log).fit()
    assert steps == stop
    torch.manual_seed(12345)  # whatever happens in between
    resumed = school(curriculum, seed=3, checkpoint=path, event_log=log)
    graduate = resumed.fit()
    assert same_weights(graduate, expected)
    assert resumed.progress.samples == 48 + 96 + 288
    losses = [[e["loss"] for e in events(p, "epoch")] for p in (whole, tmp_path / "log.jsonl")]
    assert losses[0] == losses[1], "the loss of an epoch is that of all its steps"


@contextmanager
def killed_before(grade, monkeypatch):
    """Within the block a training ends as this grade begins."""
    begin = Growth.begin

    def killed(growth, g):
        if g == grade:
            raise SystemExit
        return begin(growth, g)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Growth, "begin", killed)
        yield


@pytest.mark.parametrize("grade", [1, 2])
def test_a_training_killed_between_grades_goes_on_to_the_same_bits(tmp_path, monkeypatch, grade):
    expected = school(seed=3).fit()
    with killed_before(grade, monkeypatch):
        school(seed=3, checkpoint=tmp_path / "c.pt").fit()
    torch.manual_seed(12345)
    assert same_weights(school(seed=3, checkpoint=tmp_path / "c.pt").fit(), expected)


LEARNED = [name for name, _ in tiny_model().named_parameters() if not name.startswith("5.")]


def fine_tuning(share, checkpoint=None):
    """A school of a student whose layers, all but the classifier, were trained before."""
    torch.manual_seed(3)
    curriculum = Curriculum.graded(SLICES, 4, shares=[1, 1, 2])
    student = Student(tiny_model(), 3, input_size=(3, 16, 16), learned=LEARNED)
    training = replace(TRAINING, pretrained_lr=share)
    options = SchoolOptions(checkpoint=checkpoint)
    return School(
        student, tiny_faculty(*SLICES), curriculum, DATA, training=training, options=options
    )


def test_layers_that_were_trained_before_learn_at_their_share_of_the_rate(monkeypatch):
    rates = []
    step = School.train_step

    def told(self, batch):
        loss = step(self, batch)
        rates.append([group["lr"] for group in self.step.optimizer.param_groups])
        return loss

    monkeypatch.setattr(School, "train_step", told)
    start = {n: p.clone() for n, p in fine_tuning(0.01).student.model.named_parameters()}
    moved = {}
    for share in (0.01, 1.0):
        rates.clear()
        graduate = fine_tuning(share).fit()
        assert rates and all(slow == pytest.approx(share * usual) for slow, usual in rates)
        moved[share] = sum(
            (p - start[n]).abs().sum().item()
            for n, p in graduate.named_parameters()
            if n in LEARNED
        )
    assert 0 < moved[0.01] < 0.1 * moved[1.0]


@pytest.mark.parametrize("grade", [1, 2])
def test_fine_tuning_that_was_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch, grade):
    expected = fine_tuning(0.1).fit()
    with killed_before(grade, monkeypatch):
        fine_tuning(0.1, tmp_path / "c.pt").fit()
    assert same_weights(fine_tuning(0.1, tmp_path / "c.pt").fit(), expected)


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    first = school(checkpoint=path).fit()
    monkeypatch.setattr(School, "train_step", lambda *_: pytest.fail("trained again"))
    assert same_weights(school(checkpoint=path).fit(), first)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    school(Curriculum.single(range(6), 1), Faculty([]), checkpoint=path).fit()
    with pytest.raises(ValueError, match="with seed 0; expected education with seed 1"):
        school(Curriculum.single(range(6), 1), Faculty([]), checkpoint=path, seed=1).fit()


def test_same_seed_same_bits_and_another_seed_others():
    a, b, c = (school(Curriculum.single(range(6), 1), Faculty([]), seed=s).fit() for s in (1, 1, 2))
    assert same_weights(a, b) and not same_weights(a, c)


def test_teachers_change_what_is_learned():
    curriculum = Curriculum.single(range(6), 2, teachers=[0, 1, 2], target="routed")
    routed = school(curriculum, algorithm=KD(alpha=0.1)).fit()
    plain = school(Curriculum.single(range(6), 2), Faculty([])).fit()
    assert not same_weights(routed, plain)


def test_classes_in_any_order_graduate_under_their_own_ids():
    curriculum = Curriculum([Grade(4, [5, 2, 0]), Grade(1, [4]), Grade(12, [1, 3])])
    trained = school(curriculum, Faculty([]))
    graduate = trained.fit()
    images, labels, *_ = zip(*validation(trained), strict=True)
    with torch.no_grad():
        predictions = graduate(torch.cat(images)).argmax(1)
    accuracy = (predictions == torch.cat(labels)).double().mean().item()
    assert accuracy == trained.progress.accuracy > 0.5


def test_authors_way_forgets_momentum_and_teaches_slice_by_slice():
    curriculum = Curriculum.paper(SLICES, 4)
    trained = school(curriculum)
    trained.fit()
    slices = [c // 2 for batch in trained.plans[2].loader.epoch(0) for c in batch.labels.tolist()]
    assert slices == sorted(slices) and set(slices) == {0, 1, 2}


def test_kept_exits_learn_on_with_the_rest():
    losses = []
    for weight in (1e-6, 1.0):
        torch.manual_seed(0)
        curriculum = Curriculum([Grade(1, range(6)), Grade(1), Grade(6)], exit_weight=weight)
        student = Student(tiny_model(), 3, input_size=(3, 16, 16))
        trained = School(student, Faculty([]), curriculum, DATA, training=TRAINING)
        trained.fit()
        assert student.depths == (1, 2, 3)
        images, labels, *_ = next(validation(trained))
        with torch.no_grad():
            exits = student.eval().forward_exits(images)[:-1]
        losses.append([torch.nn.functional.cross_entropy(e, labels).item() for e in exits])
    left_alone, taught = losses
    assert taught[0] < left_alone[0] and taught[1] < left_alone[1]


def test_frozen_fragments_stop_learning_in_the_epoch_that_the_grade_names():
    curriculum = Curriculum([Grade(1, range(6)), Grade(3, freeze=(0.3,))])
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    trained = School(student, Faculty([]), curriculum, DATA, training=TRAINING)
    first = [student.model.get_parameter(name) for name in student.fragments[0].parameters]
    seen = []

    def watched():
        seen.append([p.detach().clone() for p in first])
        begin_epoch()

    begin_epoch, trained.begin_epoch = trained.begin_epoch, watched
    trained.fit()
    seen.append([p.detach() for p in first])
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(flat(seen))]
    assert moved == [True, True, False, False]


def flat(states):
    return [torch.cat([p.flatten() for p in state]) for state in states]


def test_a_loss_that_is_not_finite_stops_with_its_place():
    broken = school(Curriculum.single(range(6), 2), Faculty([]))
    with torch.no_grad():
        broken.student.classifier.bias[0] = math.nan
    message = r"the loss is nan in grade 1, epoch 1, step \d or shortly before; a lower learning"
    with pytest.raises(TrainingError, match=message):
        broken.fit()


class Blind(torch.nn.Module):
    """Finds one picture that has no number for an answer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(6))

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return (self.weight + mean[:, None]).masked_fill((mean == mean.max())[:, None], math.nan)


def blind_loss():
    """What ends a training by a teacher that is blind to an image of each batch."""
    curriculum = Curriculum.single(range(6), 1, teachers=[0], target="full")
    with pytest.raises(TrainingError) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it knows nothing
        school(curriculum, Faculty([Teacher(Blind(), range(6), "blind")])).fit()
    return str(error.value)


def test_a_teacher_without_numbers_is_named_with_a_sample_by_all_ranks():
    end = (
        r"step \d+ or shortly before; teacher 0 \(blind\) gives NaN or infinity for (\d) images of"
    )
    end += r" the last batch, training sample \d+ among them"
    (count,) = re.search(end, blind_loss()).groups()
    first, second = on_ranks(blind_loss)
    assert first == second and count == "1"
    assert re.search(end, first)[1] == "2"  # each rank has a brightest image


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Student(tiny_model(5), 3, input_size=(3, 16, 16)),
            "5 classes, the curriculum teaches 6",
        ),
        (lambda: Student(tiny_model(), 2, input_size=(3, 16, 16)), "cut into 2 fragments"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        School(build(), tiny_faculty(*SLICES), Curriculum.graded(SLICES, 3), DATA)


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="teaches class 9; tiny has 6"):
        School(
            Student(tiny_model(1), 1, input_size=(3, 16, 16)),
            Faculty([]),
            Curriculum.single([9], 1),
            DATA,
        )


def test_a_loop_of_ones_own_trains_as_fit_does():
    expected, own = school(seed=3).fit(), school(seed=3)
    at = own.progress
    for g, plan in enumerate(own.plans):
        at.grade = g
        own.begin_grade()
        for epoch in range(plan.grade.epochs):
            at.epoch, at.step = epoch, 0
            own.begin_epoch()
            for batch in own.loader.epoch(epoch):
                assert own.train_step(batch).isfinite()
    assert same_weights(own.student.graduate(), expected)


def test_a_state_can_be_kept_and_loaded_without_a_file():
    first = school(seed=3)
    first.begin_grade()
    first.begin_epoch()
    for batch in first.loader.epoch(0):
        first.train_step(batch)
    second = school(seed=3)
    second.load_state_dict(first.state_dict())
    # As text: the accuracy is NaN until an epoch has ended.
    assert str(second.progress) == str(first.progress) and second.student.grown == 1
    assert same_weights(second.student, first.student)


def test_no_step_before_a_grade_has_begun():
    idle = school()
    with pytest.raises(RuntimeError, match=r"call begin_grade\(\) first"):
        idle.train_step(next(idle.loader.epoch(0)))


def threads():
    return len(os.listdir("/proc/self/task"))


def taught_and_dropped(way, folder, monkeypatch):
    """A School that has begun and ended in some ``way``; it is gone when this returns."""
    faculty = tiny_faculty(*SLICES)
    if way == "cached":
        faculty = CachedFaculty(list(faculty), folder / "cache")
    taught = school(
        faculty=faculty, algorithm=create_algorithm("fitnet" if way == "features" else "kd")
    )
    if way == "interrupted":
        monkeypatch.setattr(school_module, "deferred_interrupt", lambda: nullcontext(lambda: True))
        with suppress(Interrupted):  # pytest.raises would hold on to the frames
            taught.fit()
    elif way != "never begun":
        taught.fit()
    loaders = [plan.loader for plan in taught.plans]
    return [weakref.ref(thing) for thing in (taught, taught.student, faculty, *loaders)]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted there")
@pytest.mark.parametrize("way", ["taught", "cached", "features", "interrupted", "never begun"])
def test_a_school_leaves_nothing_behind(tmp_path, monkeypatch, way):
    """Neither threads nor memory, without the help of the cycle collector."""
    taught_and_dropped("taught", tmp_path, monkeypatch)  # what stays stays once
    gc.collect()
    gc.disable()
    try:
        before = threads()
        for number in range(3):
            left = taught_and_dropped(way, tmp_path / str(number), monkeypatch)
            assert [thing() for thing in left] == [None] * len(left)
            assert threads() == before
    finally:
        gc.enable()


def test_a_training_goes_on_without_its_damaged_checkpoint_to_the_same_bits(tmp_path, capsys):
    path = tmp_path / "c.pt"
    expected = school(seed=3, checkpoint=path).fit()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert same_weights(school(seed=3, checkpoint=path).fit(), expected)
    assert "c.pt is damaged" in capsys.readouterr().err.replace("\n", "")


def test_every_epoch_ends_with_a_call_and_its_note(capsys):
    trained, seen = school(Curriculum.single(range(6), epochs=3), Faculty([])), []

    def after_epoch() -> str:
        seen.append((trained.progress.epoch, trained.progress.accuracy))
        return f"note {len(seen)}"

    trained.fit(after_epoch)
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    assert seen[-1][1] == trained.progress.accuracy
    told = capsys.readouterr().err
    assert all(f"images/s, note {number}" in told for number in (1, 2, 3))


@pytest.mark.parametrize("compile", [False, True])
def test_a_student_that_needs_contiguous_images_gets_them(compile: bool) -> None:
    """Images and weights are in channels_last otherwise, where its view fails."""
    student = Student(Viewing(), 2, input_size=(3, 16, 16))
    school = School(
        student,
        Faculty([Teacher(Viewing(), range(6))]),
        Curriculum(
            [Grade(1, range(3)), Grade(1, range(3, 6), [0], target="full")], exit_weight=0.3
        ),
        tiny_data(),
        training=replace(TRAINING, ema=0.5, compile=compile),
    )
    graduate = school.fit()
    images = torch.randn(2, 3, 16, 16)
    expected = school.evaluated.eval()(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(graduate(images), expected)


def test_a_school_goes_on_in_another_process() -> None:
    """A pickled one, as multiprocessing sends it, learns what it would have learned here."""
    curriculum = Curriculum.graded([range(3), range(3, 6)], epochs=2)
    faculty = tiny_faculty(range(3), range(3, 6))
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    school = School(student, faculty, curriculum, tiny_data(), training=TRAINING)
    sent = pickle.loads(pickle.dumps(school))
    torch.manual_seed(5)
    expected = school.fit().state_dict()
    torch.manual_seed(5)
    assert all(map(torch.equal, sent.fit().state_dict().values(), expected.values()))
