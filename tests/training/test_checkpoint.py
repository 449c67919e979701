import hashlib
import itertools
import os
import sys

import pytest
import torch

from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.checkpoint import (
    DamagedCheckpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import UserError
from tests.tiny import TRAINING, tiny_data, tiny_model


def test_round_trip(tmp_path):
    state = {"a": torch.arange(3), "b": [1.5, "x"], "c": {"d": None}}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded.pop("a"), state.pop("a")) and loaded == state


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": torch.zeros(1000)})
    good = path.read_bytes()
    for position in (9, 45, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)
    path.write_bytes(good[:-10])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("owned",))

    save_checkpoint(tmp_path / "c.pt", {"a": Evil()})
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        load_checkpoint(tmp_path / "c.pt")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "other.pt").write_bytes(b"hello")
    with pytest.raises(UserError, match="not an EduFast checkpoint"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_checkpoint_of_another_version_is_refused_in_a_line(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": 1})
    path.write_bytes(path.read_bytes().replace(b"EDUFAST4", b"EDUFAST1", 1))
    with pytest.raises(UserError, match="another version of EduFast: found format 1; expected 4"):
        load_checkpoint(path)


def test_where_a_checkpoint_is_damaged_the_one_before_is_taken(tmp_path):
    path, told = tmp_path / "c.pt", []
    assert latest_checkpoint(path, told.append) is None
    for number in range(3):
        save_checkpoint(path, {"a": number})
    assert latest_checkpoint(path, told.append) == {"a": 2} and told == []
    path.write_bytes(path.read_bytes()[:-1])
    assert latest_checkpoint(path, told.append) == {"a": 1}
    assert len(told) == 1 and "c.pt is damaged" in told[0]
    save_checkpoint(path, {"a": 3})
    assert load_checkpoint(path) == {"a": 3}
    assert load_checkpoint(tmp_path / "c.previous.pt") == {"a": 1}
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    assert latest_checkpoint(path, told.append) is None and len(told) == 3


def forged(change):
    """A change of what is deep in a state, given as the path of keys and the new value."""
    *path, last, value = change

    def apply(state):
        for key in path:
            state = state[key]
        state[last] = value

    return apply


def first_momentum(state):
    return next(iter(state["optimizer"]["state"].values()))


def _killed_after(steps):
    """This process, after so many things that Python asks of the system."""
    left = iter(range(steps))
    sys.addaudithook(lambda *_: next(left, None) is None and os._exit(9))


def test_a_process_that_is_killed_anywhere_within_a_write_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for steps in itertools.count():
        save_checkpoint(path, {"number": 0})
        child = os.fork()
        if not child:
            _killed_after(steps)
            save_checkpoint(path, {"number": 1})
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = latest_checkpoint(path, pytest.fail)
        if not status:
            break
        assert found in ({"number": 0}, {"number": 1})
    assert steps > 10 and found == {"number": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "KeyError: 'name'"),
        (lambda state: state.pop("progress"), "KeyError: 'progress'"),
        (lambda state: state.pop("optimizer"), "KeyError: 'optimizer'"),
        (lambda state: state.pop("rng"), "KeyError: 'rng'"),
        (forged(("progress", [1, 2])), "TypeError: "),
        (forged(("progress", "more", 1)), "unexpected keyword argument 'more'"),
        (forged(("progress", "grade", 10**9)), "grade is 1000000000; expected 0 to 2"),
        (forged(("progress", "grade", -1)), "grade is -1; expected 0 to 2"),
        (forged(("progress", "grade", "x")), "TypeError: "),
        (forged(("progress", "epoch", 3)), "epoch is 3; expected 0 to 1"),
        (forged(("progress", "step", 10**12)), "step is 1000000000000; expected 0 to"),
        (forged(("progress", "step", 0.5)), "step is 0.5; expected an integer"),
        (forged(("progress", "samples", -5)), "samples is -5; expected at least 0"),
        (forged(("progress", "samples", True)), "samples is True; expected an integer"),
        (forged(("progress", "seconds", "long")), "seconds is 'long'; expected a number"),
        (forged(("progress", "phases", None)), "TypeError: "),
        (forged(("progress", "phases", {"data": "x"})), "data is 'x'; expected a number"),
        (forged(("begun", 99)), "begun is 99; expected"),
        (forged(("begun", None)), "begun is None; expected"),
        (forged(("student", {})), "Missing key(s) in state_dict"),
        (forged(("student", 7)), "TypeError: "),
        (forged(("student", "classifier", torch.ones(2))), "Unexpected key(s)"),
        (lambda state: state["student"].update(dict.fromkeys(state["student"], 1)), "RuntimeError"),
        (
            lambda state: state["student"].update(
                dict.fromkeys(state["student"], torch.zeros(2, 2, 2))
            ),
            "size mismatch",
        ),
        (forged(("algorithm", None)), "TypeError: "),
        (forged(("optimizer", "param_groups", [])), "different number of parameter groups"),
        (forged(("optimizer", "param_groups", 0, "params", [0])), "doesn't match the size"),
        (forged(("optimizer", "param_groups", 0, "momentum", "x")), "momentum is 'x'; expected"),
        (forged(("optimizer", "param_groups", 0, "momentum", 0.5)), "momentum is 0.5; expected"),
        (
            lambda state: state["optimizer"]["param_groups"][0].pop("nesterov"),
            "nesterov is False; expected True",
        ),
        (
            lambda state: first_momentum(state).update(momentum_buffer=torch.zeros(3, 5)),
            "momentum_buffer is (3, 5); expected a tensor of shape",
        ),
        (lambda state: first_momentum(state).update(momentum_buffer="x"), "momentum_buffer is str"),
        (forged(("rng", torch.zeros(3))), "TypeError: "),
        (forged(("rng", "x")), "TypeError: "),
        (forged(("rng", torch.zeros(7, dtype=torch.uint8))), "RuntimeError: "),
    ],
)
def test_a_forged_state_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "c.pt"
    state = interrupted_state(path)
    change(state)
    save_checkpoint(path, state)
    with pytest.raises(UserError) as caught:
        school(path).fit()
    text = str(caught.value)
    assert text.startswith(f"{path} does not fit this training: ") and "\n" not in text
    assert message in text and len(text) < len(str(path)) + 450
    assert text.endswith("Delete it and c.previous.pt to begin again")


def school(checkpoint):
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    curriculum = Curriculum([Grade(1, range(3)), Grade(1, range(3, 6))])
    options = SchoolOptions(checkpoint=checkpoint)
    return School(student, Faculty([]), curriculum, tiny_data(), training=TRAINING, options=options)


def interrupted_state(path):
    """Of a training that was interrupted when its first grade ended."""
    trained = school(path)
    trained.begin_grade()
    trained.begin_epoch()
    for batch in trained.loader.epoch(0):
        trained.train_step(batch)
    trained.progress.grade, trained.progress.step = 1, 0
    save_checkpoint(path, trained.state_dict())
    return load_checkpoint(path)


def test_the_state_that_is_forged_is_otherwise_good(tmp_path):
    interrupted_state(tmp_path / "c.pt")
    trained = school(tmp_path / "c.pt")
    trained.fit()
    assert trained.progress.samples == 4 * 16 + 9 * 16


def test_what_is_no_state_of_a_training_counts_as_damaged(tmp_path):
    path, told = tmp_path / "c.pt", []
    for content in ([1, 2], "text", torch.zeros(2)):
        save_checkpoint(path, {"a": 1})
        save_checkpoint(path, content)
        assert latest_checkpoint(path, told.append) == {"a": 1}
        assert "holds no state: found" in told[-1]


def test_a_checkpoint_that_holds_no_torch_file_counts_as_damaged(tmp_path):
    path = tmp_path / "c.pt"
    for payload in (b"", b"PK", b"\x80\x02.", b"x" * 100):
        path.write_bytes(b"EDUFAST4" + hashlib.sha256(payload).digest() + payload)
        with pytest.raises(DamagedCheckpoint, match="something else than plain data") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
