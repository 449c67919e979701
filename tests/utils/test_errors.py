"""The error for an unknown name suggests close names and lists those that exist."""

from edufast.utils.errors import UserError, one_line, unknown


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


def test_long_lists_are_cut_but_searched_to_the_end():
    message = str(unknown("model", "net999", [f"net{i}" for i in range(1000)]))
    assert "did you mean 'net999'" in message
    assert message.endswith("net18, net19, …")


def test_a_message_of_several_lines_becomes_one():
    assert one_line(ValueError("first\n\tsecond  third\n")) == "first second third"
    assert one_line(ValueError()) == ""
