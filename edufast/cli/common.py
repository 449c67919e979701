"""What the commands share: where they print, and how they fail."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, ParamSpec, TextIO, TypeVar

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from edufast.utils.errors import LostRank, UserError, one_line, visible
from edufast.utils.extras import needed_for
from edufast.utils.progress import message_console
from edufast.utils.signals import is_interrupt
from edufast.utils.terminal import Rows, Terminal

P = ParamSpec("P")
T = TypeVar("T")

# Messages for people; standard output is for programs.
console = message_console()


def device_name(name: str) -> str:
    """``name``, with auto resolved.

    Raises:
        UserError: there is no such device here.
    """
    import torch  # seconds, which --help and a mistyped option should not take

    from edufast.utils.devices import check_device

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name, "--device")
    return name


def table(*heads: str, wraps: Sequence[str] = ()) -> Table:
    """An empty table whose cells stay on one line, but for those of the columns ``wraps``."""
    empty = Rows(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in heads:
        if head in wraps:
            empty.add_column(visible(head), overflow="fold")
        else:
            empty.add_column(visible(head), no_wrap=True)
    return empty


def say(text: str) -> None:
    """A line for people, not broken where the terminal ends: paths stay whole."""
    console.print(visible(text), highlight=False, soft_wrap=True)


def show(what: Table) -> None:
    """Print ``what`` to standard output."""
    Terminal().print(what)


def user(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Call ``function``; a user error ends the command with one line and exit code 2.

    File system errors (a full disk, a file in the place of a folder) and lack of memory end it with
    one line and code 1: files are written whole or not at all, so the same command continues once
    that is fixed.
    """
    try:
        with needed_for("this command", "train"):
            return function(*arguments, **keywords)
    except UserError as error:
        fail(str(error), 2)
    except ImportError as error:  # a package that is there: damaged, of another system, no memory
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        if (error.name or "").partition(".")[0] == "edufast":
            raise
        fail(f"a package cannot be loaded: {one_line(error)}", 1)
    except LostRank as error:
        from edufast.utils.ranks import others_told

        if others_told():
            raise typer.Exit(1) from None
        fail(f"{error}; the same command goes on from the last checkpoint", 1)
    except UnicodeEncodeError as error:
        text = error.object[error.start : error.end]
        fail(
            f"{text!r} cannot be written in this locale, whose encoding is "
            f"{sys.getfilesystemencoding()}; expected UTF-8, for instance by PYTHONUTF8=1",
            2,
        )
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        fail(f"{where}{error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        message = ". ".join(one_line(error).split(". ")[:2])  # without torch's advice on settings
        fail(f"there is not enough memory: {message}", 1)


def _lacks_memory(error: Exception) -> bool:
    """NumPy's, torch's on a GPU, and torch's on a CPU, which has no type of its own."""
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_named or "can't allocate memory" in str(error)


def tolerate_any_locale() -> None:
    """Let characters that standard output cannot have appear as escapes, not end the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Within the block, this package's warnings are printed in one line each, without its source
    code."""
    usual, package = warnings.showwarning, Path(__file__).parents[1]

    def shown(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning and Path(filename).is_relative_to(package):
            say(f"warning: {one_line(message)}")
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():  # gives the function back
        warnings.showwarning = shown
        yield


@contextmanager
def as_rank() -> Iterator[None]:
    """Within the block, this process is one of those that torchrun has started, if it has; only
    the first one talks."""
    from edufast.utils import ranks

    joined = user(ranks.join)
    console.quiet = not ranks.is_first()
    failed = True
    try:
        yield
        failed = False
    finally:
        if joined:
            ranks.leave(failed=failed)


def fail(message: str, code: int) -> NoReturn:
    """End the command in one line, by one of its processes."""
    if (os.environ.get("WORLD_SIZE") or "1") != "1":
        from edufast.utils.ranks import first_to_tell

        if not first_to_tell():
            raise typer.Exit(code)
    console.quiet = False
    console.print(Text("edufast:", "red"), visible(message), highlight=False, soft_wrap=True)
    raise typer.Exit(code)
