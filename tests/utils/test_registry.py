"""Names that are registered, import paths or entry points; for all others one clear line."""

from __future__ import annotations

import importlib.metadata
from functools import partial

import pytest

import edufast.utils.registry as registry_module
from edufast.utils.errors import UserError
from edufast.utils.registry import Registry, call_user, is_import_path


class Shape:
    def __init__(self, sides: int = 0, *, colour: str = "red") -> None:
        self.sides, self.colour = sides, colour


class Square(Shape):
    pass


def triangle(sides: int = 3) -> Shape:
    return Shape(sides)


@pytest.fixture
def shapes() -> Registry:
    entries = {"circle": Shape, "square": partial(Square, 4), "triangle": triangle}
    return Registry("shape", "tests.shapes", Shape, entries, also="a drawing")


def error_of(function, *arguments, **options) -> str:
    """The one line of the error."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_registered_names_come_in_order_and_make_their_objects(shapes):
    assert list(shapes) == ["circle", "square", "triangle"] and len(shapes) == 3
    assert shapes.find("triangle") is triangle
    assert shapes.call("circle", 7, colour="blue").sides == 7
    assert isinstance(shapes.call("square"), Square)


# --- by decorator ----------------------------------------------------------------------------


def test_a_decorated_function_is_known_by_its_name_and_stays_what_it_was(shapes):
    @shapes.register("my-hexagon.2")
    def hexagon() -> Shape:
        return Shape(6)

    assert "my-hexagon.2" in shapes and list(shapes)[-1] == "my-hexagon.2"
    assert shapes.call("my-hexagon.2").sides == 6 == hexagon().sides


def test_a_name_is_taken_by_one_function_which_may_be_registered_again(shapes):
    def notebook_cell(sides: int):
        @shapes.register("mine")
        def mine() -> Shape:
            return Shape(sides)

    notebook_cell(5)
    notebook_cell(6)
    assert shapes.call("mine").sides == 6
    message = error_of(shapes.register("mine"), triangle)
    assert "shape 'mine' is already registered as " in message and "cell.<locals>.mine" in message
    for name in ("circle", "square"):  # a class, and a partial, that come with the package
        assert "is already registered" in error_of(shapes.register(name), triangle)
    assert shapes.call("square").sides == 4


@pytest.mark.parametrize("name", ["", "a b", "a:b", "timm/a", triangle, None])
def test_names_that_could_not_be_looked_up_are_refused(shapes, name):
    assert "shape name is" in error_of(shapes.register, name)


def test_only_what_can_make_the_object_is_registered(shapes):
    message = "is a list; expected a class or function that makes a Shape"
    assert error_of(shapes.register("mine"), [1]) == f"shape 'mine' {message}"
    assert "is the class dict; expected a class" in error_of(shapes.register("mine"), dict)
    assert "mine" not in shapes


# --- by import path --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mypackage:mine", True),
        ("my.deep.package:Mine_2", True),
        ("über:größe", True),
        ("mine", False),
        ("a.b", False),
        ("a:b:c", False),
        (":b", False),
        ("a:", False),
        ("timm/hf-hub:someone", False),
        ("1a:b", False),
        ("/a:b", False),
        ("a :b", False),
    ],
)
def test_the_form_of_an_import_path(name, expected):
    assert is_import_path(name) is expected


def test_an_import_path_is_imported_when_it_is_looked_up(shapes, mypackage):
    mypackage.write(
        shapes="""
        from tests.utils.test_registry import Shape
        def pentagon(*, colour="red"):
            return Shape(5, colour=colour)
        class Star(Shape):
            pass
        """
    )
    assert shapes.call("mypackage.shapes:pentagon", colour="green").colour == "green"
    assert shapes.call("mypackage.shapes:Star", 10).sides == 10
    assert list(shapes) == ["circle", "square", "triangle"]
    assert "mypackage.shapes:pentagon" not in shapes


def test_a_failed_import_is_one_line(shapes, mypackage):
    package = mypackage.write(
        broken="def f(:\n",
        needy="import numpi_of_nobody",
        failing="x = 1\nraise RuntimeError('no\\nluck')",
        leaving="import sys\nsys.exit(3)",
        good="square = 4\n_hidden = 5\n",
    )
    find = shapes.find
    assert error_of(find, "nowhere.at_all:f") == (
        "shape 'nowhere.at_all:f': there is no module 'nowhere'; expected one that is installed "
        "or in a folder on PYTHONPATH"
    )
    assert "there is no module 'mypackage.missing'" in error_of(find, "mypackage.missing:f")
    assert "cannot import mypackage.broken: SyntaxError: invalid" in error_of(
        find, "mypackage.broken:f"
    )
    message = error_of(find, "mypackage.needy:f")
    assert "ModuleNotFoundError: No module named 'numpi_of_nobody'" in message
    assert f"({package / 'needy.py'}, line 1)" in message
    assert error_of(find, "mypackage.failing:f") == (
        "shape 'mypackage.failing:f': cannot import mypackage.failing: RuntimeError: no luck "
        f"({package / 'failing.py'}, line 2)"
    )
    assert "SystemExit: 3" in error_of(find, "mypackage.leaving:f")
    assert "attribute of mypackage.good is 'sqare'; did you mean 'square'?" in error_of(
        find, "mypackage.good:sqare"
    )
    assert "'mypackage.good:square' is an int; expected a class" in error_of(
        find, "mypackage.good:square"
    )
    assert "is the class Path; expected" in error_of(find, "pathlib:Path")


def test_an_error_in_an_entry_comes_with_its_place(shapes, mypackage):
    package = mypackage.write(
        shapes="""
        def helper(x):
            return [][x]

        def failing():
            return helper(3)

        def of_numpy():
            import numpy
            return numpy.zeros(-1)

        def strict():
            from edufast.utils.errors import UserError
            raise UserError("sides is -1; expected more")

        def text():
            return "square"

        def silent():
            pass
        """
    )
    call = shapes.call
    with pytest.raises(UserError, match="IndexError: list index") as caught:
        call("mypackage.shapes:failing")
    assert str(caught.value).endswith(f"({package / 'shapes.py'}, line 3)")
    assert isinstance(caught.value.__cause__, IndexError)
    assert f"({package / 'shapes.py'}, line 10)" in error_of(call, "mypackage.shapes:of_numpy")
    assert error_of(call, "mypackage.shapes:strict") == (
        "shape 'mypackage.shapes:strict': sides is -1; expected more"
    )
    assert error_of(call, "mypackage.shapes:text") == (
        "shape 'mypackage.shapes:text' returned a str; expected a Shape"
    )
    assert "returned None; expected a Shape" in error_of(call, "mypackage.shapes:silent")


def test_options_that_an_entry_does_not_take_are_refused_before_it_runs(shapes):
    message = error_of(shapes.call, "circle", 3, color="blue")
    assert message == (
        "shape 'circle': option is 'color'; did you mean 'colour'? Expected one of colour"
    )
    assert "too many positional arguments; it takes (sides" in error_of(
        shapes.call, "triangle", 1, 2
    )

    @shapes.register("anything")
    def anything(**options: object) -> Shape:
        return Shape(len(options))

    assert shapes.call("anything", a=1, b=2).sides == 2
    assert shapes.call("anything", self=1, what=2, function=3, name=4).sides == 4


# --- by entry point --------------------------------------------------------------------------


def test_packages_declare_entry_points_that_are_read_when_nothing_else_is_found(
    shapes, mypackage, monkeypatch
):
    mypackage.write(
        shapes="from tests.utils.test_registry import Shape\ndef star(): return Shape(10)\n"
    )
    mypackage.declare("tests.shapes", star="mypackage.shapes:star", circle="mypackage.shapes:star")
    reads = []

    def counting(**selection):
        reads.append(selection)
        return importlib.metadata.entry_points(**selection)

    monkeypatch.setattr(registry_module, "entry_points", counting)
    assert shapes.call("circle").sides == 0 and not reads  # registered names come first
    assert shapes.call("star").sides == 10 and reads
    assert "star" in shapes and "star" not in list(shapes)
    assert "'star'" in error_of(shapes.find, "stra")


def test_an_entry_point_of_two_packages_is_no_name(shapes, mypackage):
    mypackage.declare("tests.shapes", star="mypackage.a:star", same="mypackage.a:same")
    mypackage.declare("tests.shapes", "other", star="mypackage.b:star", same="mypackage.a:same")
    assert error_of(shapes.find, "star") == (
        "shape 'star' is declared by several packages; expected one of their import paths, "
        "mypackage.a:star or mypackage.b:star"
    )
    assert "there is no module" in error_of(shapes.find, "same")  # twice on the path, but one


def test_an_entry_point_is_checked_like_an_import_path(shapes, mypackage):
    mypackage.write(shapes="wrong = 3\n")
    mypackage.declare("tests.shapes", wrong="mypackage.shapes:wrong", gone="mypackage.gone:f")
    assert "shape 'wrong' is an int; expected a class" in error_of(shapes.find, "wrong")
    assert "there is no module 'mypackage.gone'" in error_of(shapes.find, "gone")


# --- unknown names ---------------------------------------------------------------------------


def test_the_error_for_an_unknown_name_suggests_close_names_and_lists_all(shapes):
    assert error_of(shapes.find, "Cricle") == (
        "shape is 'Cricle'; did you mean 'circle'? Expected one of circle, square, triangle; or a "
        "drawing or an import path"
    )
    assert "shape is 'zzz'; expected one of circle" in error_of(shapes.find, "zzz")
    for wrong in (3, None, ["circle"]):
        assert error_of(shapes.find, wrong).endswith("; expected a name or an import path")


def test_an_error_in_a_users_code_is_not_taken_for_ctrl_c():
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_user("it", interrupted)
    assert error_of(call_user, "it", len, 3).startswith(
        "it: TypeError: object of type 'int' has no len"
    )
