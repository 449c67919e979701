"""Names do not control the terminal that they are printed to."""

import io

from rich import box

from edufast.utils.errors import visible
from edufast.utils.progress import TrainingBar, message_console
from edufast.utils.terminal import Rows, Terminal

NAME = "a\x1b[31m\x07:rose:[/b]\x9b"
SHOWN = r"a\x1b[31m\x07:rose:[/b]\x9b"


def test_control_characters_are_shown():
    assert visible(NAME) == SHOWN and visible("é\n\t☃") == r"é\n\t☃"
    assert visible("a\n\r", keep="\n") == "a\n\\r"


def test_lines_and_tables_show_names_as_they_are():
    terminal = Terminal(file=io.StringIO(), width=80)
    rows = Rows("name", box=box.SIMPLE)
    rows.add_row(NAME)
    terminal.print(f"{NAME}\nsecond line", rows, highlight=False)
    text = terminal.file.getvalue()
    assert text.count(SHOWN) == 2 and "\nsecond line\n" in text
    assert not set(text) & {"\x1b", "\x07", "\x9b"}


def test_so_do_messages(capsys):
    message_console().print(NAME, highlight=False)
    TrainingBar(NAME, 1).say(f"{NAME}: b")
    assert capsys.readouterr().err == f"{SHOWN}\n{SHOWN}: b\n"
