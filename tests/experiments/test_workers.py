"""Tasks in several processes: their order, and how a failure is told."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from edufast.experiments.workers import run_tasks
from edufast.utils.errors import TrainingError


class FileTask:
    """Writes its file once those it needs are there; the text of `verb` says how it ends."""

    def __init__(self, product: Path, needs: tuple[Path, ...] = (), verb: str = "write") -> None:
        self.product, self.needs, self.verb = product, needs, verb

    @property
    def name(self) -> str:
        return self.product.name

    def done(self) -> bool:
        return self.product.exists()

    def run(self, console) -> str:
        assert all(path.exists() for path in self.needs)
        if self.verb == "die":
            os._exit(3)
        self.product.write_text(str(os.getpid()))
        return "written"


def test_processes_keep_the_order_and_tell_a_failure(tmp_path):
    a, b, c, bad, late = (tmp_path / name for name in ("a", "b", "c", "bad", "late"))
    tasks = [
        FileTask(a),
        FileTask(b, (a,)),
        FileTask(c),
        FileTask(bad, (a, b, c), verb="die"),
        FileTask(late, (bad,)),
    ]
    with pytest.raises(TrainingError, match=r"bad: its process ended, see .*worker.\.log"):
        run_tasks(tasks, 2, tmp_path / "logs", Console(quiet=True))
    assert a.exists() and b.exists() and c.exists() and not late.exists()
    assert a.read_text() != c.read_text(), "processes share the work"
