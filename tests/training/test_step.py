import json
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import edufast.training.step as step_module
from edufast.distill import KD, create_algorithm
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.training.settings import SchoolOptions, Training
from edufast.training.step import TrainStep, worth_compiling
from edufast.utils.errors import Interrupted, TrainingError, UserError
from edufast.utils.event_log import EventLog
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
SLICES = [range(0, 2), range(2, 4), range(4, 6)]
GRADED = Curriculum.graded(SLICES, 4, shares=[1, 1, 2])


@pytest.fixture
def traced_only(monkeypatch):
    """Dynamo and AOTAutograd trace as always, but what they found runs eagerly: that is quick."""
    monkeypatch.setattr(step_module, "BACKEND", "aot_eager")


def school(curriculum=GRADED, *, event_log=None, algorithm=None, **training):
    torch.manual_seed(0)
    model = tiny_model()
    model[2][2].p = 0.0  # compiled code draws other random numbers
    student = Student(model, curriculum.fragments[-1], input_size=(3, 16, 16))
    return School(
        student,
        tiny_faculty(*(grade.classes for grade in curriculum.grades)),
        curriculum,
        DATA,
        training=replace(TRAINING, **training),
        algorithm=algorithm or KD(alpha=0.9),
        options=SchoolOptions(event_log=event_log),
    )


def same_weights(a, b):
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


class Counted(TrainStep):
    made: list[TrainStep]

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.made.append(self)


@pytest.fixture
def steps(monkeypatch):
    """Every TrainStep that a School makes."""
    Counted.made = []
    monkeypatch.setattr("edufast.training.school.TrainStep", Counted)
    return Counted.made


def test_one_compile_a_grade_and_one_where_a_fragment_freezes(traced_only, steps):
    trained = school(compile=True)  # grade 3 has two epochs, and every step a learning rate
    trained.fit()
    assert [step.compiles for step in steps] == [1, 1, 2]
    assert trained.step.compiles == 2


def test_one_compile_a_grade_beyond_dynamos_limit(traced_only, steps):
    # Dynamo allows 8 variants of a function.
    for _ in range(4):
        school(compile=True).fit()
    assert [step.compiles for step in steps] == [1, 1, 2] * 4


def test_compiled_training_equals_eager_training():
    halves = Curriculum.graded([range(3), range(3, 6)], 3, shares=[1, 2])
    assert halves.exit_weight and halves.grades[-1].freeze
    eager, compiled = (school(halves, compile=c) for c in (False, True))
    expected, graduate = eager.fit(), compiled.fit()
    assert type(graduate) is nn.Sequential
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(graduate.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


def test_an_interrupted_compiled_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    def make(checkpoint=None):
        torch.manual_seed(0)
        student = Student(tiny_model(), 1, input_size=(3, 16, 16))  # with dropout
        training = replace(TRAINING, compile=True)
        curriculum = Curriculum.single(range(6), 2)
        options = SchoolOptions(checkpoint=checkpoint)
        return School(student, Faculty([]), curriculum, DATA, training=training, options=options)

    expected = make().fit()
    stopped = make(tmp_path / "c.pt")
    monkeypatch.setattr(
        "edufast.training.school.deferred_interrupt",
        lambda: nullcontext(lambda: stopped.progress.step == 5),
    )
    with pytest.raises(Interrupted):
        stopped.fit()
    monkeypatch.undo()
    torch.manual_seed(12345)
    resumed = make(tmp_path / "c.pt")
    graduate = resumed.fit()
    assert stopped.progress.samples == 5 * 16 and resumed.progress.samples == 2 * 144
    for name, weight in expected.state_dict().items():
        assert torch.equal(graduate.state_dict()[name], weight), name


class Choosy(KD):
    """Looks at a number in between, which cannot be compiled as one graph."""

    def logit_loss(self, logits, teaching, labels):
        loss = super().logit_loss(logits, teaching, labels)
        return loss if loss.item() < 1e9 else loss * 0


def decisions(path):
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [(e["grade"], e["compiled"], e["reason"]) for e in events if e["event"] == "compile"]


def test_auto_leaves_short_grades_alone_and_says_so(tmp_path, steps, capsys):
    school(event_log=EventLog(tmp_path / "j")).fit()
    assert [step.compiles for step in steps] == [0, 0, 0]
    decided = decisions(tmp_path / "j")
    assert [(grade, compiled) for grade, compiled, _ in decided] == [
        (1, False),
        (2, False),
        (3, False),
    ]
    assert "18 steps save about 0 s, compiling takes 17 s" in decided[2][2]
    told = capsys.readouterr().err
    assert f"not compiled: {decided[0][2]}" in told and told.count("not compiled") == 1


@pytest.fixture
def pays(monkeypatch):
    """Compiling pays for any number of steps: (student, batch size, steps) of each question."""
    questions = []

    def worth_compiling(student, batch_size, steps):
        questions.append((student, batch_size, steps))
        return True, "it pays"

    monkeypatch.setattr(step_module, "worth_compiling", worth_compiling)
    return questions


def test_auto_compiles_where_that_pays(traced_only, pays, steps, tmp_path):
    trained = school(Curriculum.single(range(6), 2), event_log=EventLog(tmp_path / "j"))
    trained.fit()
    assert [step.compiles for step in steps] == [1]
    assert decisions(tmp_path / "j") == [(1, True, "it pays")]
    assert pays == [(trained.student, 16, 2 * 9)]


def test_compiling_pays_from_some_number_of_steps_on():
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    student.grow(fragments=1, classes=6)
    few, many = (worth_compiling(student, 16, steps) for steps in (10, 10**9))
    assert [few[0], many[0]] == [False, True]
    for steps, (pays, why) in (("10", few), ("1,000,000,000", many)):
        found = re.fullmatch(rf"{steps} steps save about (\d+) s, compiling takes (\d+) s", why)
        saved, cost = map(int, found.groups())
        assert (saved > cost) is pays


def test_nothing_is_compiled_where_the_gain_is_not_known():
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    student.grow(fragments=1, classes=6)
    found = worth_compiling(student.to("meta"), 16, 10**9)
    assert found == (False, "it is not known whether compiling pays on meta")


def test_auto_goes_on_without_what_cannot_be_compiled(traced_only, pays, tmp_path):
    taught = Curriculum.single(range(6), 1, teachers=[0], target="full")
    kd, choosy = (
        school(taught, algorithm=algorithm(), compile=compile, event_log=EventLog(tmp_path / "j"))
        for algorithm, compile in ((KD, False), (Choosy, "auto"))
    )
    assert same_weights(kd.fit(), choosy.fit())
    *_, (_, first, _), (_, then, why) = decisions(tmp_path / "j")
    assert (first, then) == (True, False) and why.startswith("it cannot be compiled: ")


def unusable(graph, inputs):
    """A backend whose backward pass runs into a file that a killed compiler has left."""

    def short(gradient):
        raise ImportError("main.so: file too short")

    def run(*arguments):
        results = graph(*arguments)
        for result in results:
            if result.requires_grad:
                result.register_hook(short)
        return results

    return run


def test_a_backward_pass_that_cannot_be_compiled_is_no_other_case(monkeypatch, pays, tmp_path):
    monkeypatch.setattr(step_module, "compiler_backend", lambda name: unusable)
    taught = Curriculum.single(range(6), 1)
    school(taught, event_log=EventLog(tmp_path / "j")).fit()
    assert decisions(tmp_path / "j")[-1][1:] == (
        False,
        "it cannot be compiled: main.so: file too short",
    )
    with pytest.raises(TrainingError, match=r"cannot be compiled: main\.so: file too short"):
        school(taught, compile=True).fit()


def test_what_is_to_be_compiled_but_cannot_is_an_error(traced_only):
    taught = Curriculum.single(range(6), 1, teachers=[0], target="full")
    with pytest.raises(TrainingError, match="compile is true, but this step cannot be compiled"):
        school(taught, algorithm=Choosy(), compile=True).fit()


def test_slice_after_slice_is_not_compiled(traced_only, pays, tmp_path):
    slices = Curriculum.paper(SLICES, 3)
    school(slices, event_log=EventLog(tmp_path / "j")).fit()
    assert {decided[1:] for decided in decisions(tmp_path / "j")} == {
        (False, "the composition of the batches changes")
    }
    with pytest.raises(ValueError, match="compile is True, but in the order 'slices'"):
        school(slices, compile=True)


def test_bf16_learns_with_float32_weights():
    plain = Curriculum.single(range(6), 12)
    exact, fast = school(plain), school(plain, precision="bf16")
    graduate = fast.fit()
    assert fast.progress.accuracy > 0.9
    assert {p.dtype for p in graduate.parameters()} == {torch.float32}
    assert not same_weights(graduate, exact.fit())


def test_fused_updates_equal_single_ones_through_growth(monkeypatch):
    fused = school().fit().state_dict()
    create = Training.create_optimizer

    def forget_zero_momentum(optimizer, *_):
        """PyTorch's own start: no buffer before the first gradient."""
        for parameter, state in list(optimizer.state.items()):
            if not state["momentum_buffer"].any():
                del optimizer.state[parameter]

    def single(training, *parameters):
        optimizer = create(training, *parameters)
        for group in optimizer.param_groups:
            group["fused"] = False
        optimizer.register_step_pre_hook(forget_zero_momentum)
        return optimizer

    monkeypatch.setattr(Training, "create_optimizer", single)
    for name, weight in school().fit().state_dict().items():
        torch.testing.assert_close(fused[name], weight, rtol=1e-3, atol=1e-4)


def test_adamw_learns_through_growth():
    trained = school(Curriculum.graded(SLICES, 12), optimizer="adamw", lr=0.01)
    trained.fit()
    assert trained.progress.accuracy > 0.5


class Mistaken(KD):
    """A user's algorithm with a mistake in one of its methods."""

    def __init__(self, method):
        super().__init__()
        setattr(self, method, self.wrong)

    def wrong(self, *arguments):
        return self.nothing_of_that_name


class Unreduced(KD):
    reads_features = False

    def logit_loss(self, logits, outputs, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("compiled", [False, "auto"])
@pytest.mark.parametrize("method", ["begin_grade", "begin_epoch", "logit_loss", "feature_loss"])
def test_a_mistake_in_a_users_algorithm_is_told_in_one_line(
    method, compiled, traced_only, monkeypatch
):
    monkeypatch.setattr(step_module, "_COMPILE_SECONDS", -1e9)  # auto would compile
    algorithm = Mistaken(method)
    monkeypatch.setattr(Mistaken, "reads_features", method == "feature_loss", raising=False)
    with pytest.raises(UserError) as caught:
        school(algorithm=algorithm, compile=compiled).fit()
    message = str(caught.value)
    assert message.startswith(f"Mistaken.{method}: AttributeError: 'Mistaken' object has no attr")
    assert "\n" not in message and "test_step.py, line " in message
    assert isinstance(caught.value.__cause__, AttributeError)


def test_a_loss_that_is_no_number_is_told():
    message = r"Unreduced.logit_loss returned \(16,\); expected a Tensor without dimensions"
    with pytest.raises(UserError, match=message):
        school(algorithm=Unreduced(), compile=False).fit()


class Operators(TorchDispatchMode):
    """Counts what PyTorch is asked to compute."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.calls[operator.name()] += 1
        return operator(*arguments, **(keywords or {}))


def test_a_step_is_few_operators():
    """A count, which no busy machine changes: each is a launch on a GPU, and microseconds here."""
    trained = school()
    trained.begin_grade()
    trained.begin_epoch()
    batches = trained.loader.epoch(0)
    trained.train_step(next(batches))
    with Operators() as operators:
        trained.train_step(next(batches))
    calls = operators.calls
    assert calls["edufast::kd_loss"] == 1  # loss and gradient, of all teachers
    assert calls["aten::_fused_sgd_"] == 1  # all weights
    assert calls["aten::_local_scalar_dense"] <= 1  # waits for the device
    assert sum(calls.values()) <= 110, calls  # those of student and teachers included


def moved(**training):
    """By the first step of plain SGD: all weights, adapters included, and the learning rate."""
    algorithm = create_algorithm("fitnet")
    trained = school(algorithm=algorithm, momentum=0.0, weight_decay=0.0, **training)
    trained.begin_grade()
    trained.begin_epoch()
    torch.manual_seed(0)
    parameters = [p for g in trained.step.optimizer.param_groups for p in g["params"]]
    before = [p.detach().clone() for p in parameters]
    trained.train_step(next(trained.loader.epoch(0)))
    change = [(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)]
    assert {id(p) for p in algorithm.parameters()} <= {id(p) for p in parameters}
    return torch.cat(change), trained.step.optimizer.param_groups[0]["lr"]


def test_a_gradient_that_is_too_long_is_scaled_down_as_a_whole():
    free, rate = moved()
    length = (free / rate).norm().item()
    clipped, _ = moved(clip=length / 4)
    torch.testing.assert_close(clipped, free / 4, rtol=1e-3, atol=1e-7)


def test_a_gradient_that_is_short_enough_stays_as_it_is():
    free, rate = moved()
    kept, _ = moved(clip=2 * (free / rate).norm().item())
    assert torch.equal(kept, free)
