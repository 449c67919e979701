"""The error for an unknown name suggests close names and lists those that exist."""

import pickle

import pytest

from edufast.utils.errors import TrainingError, UserError, one_line, unknown


def test_close_names_come_first_whatever_their_case():
    error = unknown("method", "EDUCATON", ["scratch", "education", "grades"])
    assert isinstance(error, UserError)
    assert str(error) == (
        "method is 'EDUCATON'; did you mean 'education'? Expected one of scratch, education, grades"
    )


def test_without_a_close_name_all_are_listed_and_what_else_is_accepted():
    error = unknown("data", 7, ["a", "b", "a"], also="a folder")
    assert str(error) == "data is 7; expected one of a, b; or a folder"
    assert str(unknown("data", "x", [], also="a folder")) == "data is 'x'; expected a folder"
    assert str(unknown("option", "x", [])) == "option is 'x'; expected none"


def test_names_with_commas_are_told_apart():
    message = str(unknown("--only", "x", ["kd, lr=0.1", "dist"]))
    assert message == "--only is 'x'; expected one of kd, lr=0.1; dist"


def test_long_lists_are_cut_but_searched_to_the_end():
    message = str(unknown("model", "net999", [f"net{i}" for i in range(1000)]))
    assert "did you mean 'net999'" in message
    assert message.endswith("net18, net19, …")


def test_a_message_of_several_lines_becomes_one():
    assert one_line(ValueError("first\n\tsecond  third\n")) == "first second third"
    assert one_line(ValueError()) == ""


@pytest.mark.parametrize("error", [UserError, TrainingError])
@pytest.mark.parametrize("end", "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_name_in_a_message_does_not_break_its_line(error, end):
    assert str(error(f"found a  name{end} of a file")) == "found a  name of a file"
    assert str(pickle.loads(pickle.dumps(error(f"a{end}b")))) == "a b"
