"""Processes that torchrun starts: interrupted, killed, gone on with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.test_ranks import together
from tests.commands import events
from tests.test_soak import soak_tool

EPOCHS, SAMPLES = 20, 64
RECIPE = f"""
name: shared
data: {{source: digits}}
student: {{model: resnet8}}
teachers: [{{model: resnet8, classes: 0-9}}]
teacher_epochs: 1
teacher_samples: {SAMPLES}
curriculum:
  grades:
  - {{teachers: [0], target: full, epochs: {EPOCHS}, samples: {SAMPLES}}}
training: {{batch_size: 32, compile: false}}
"""


class Started:
    """A command of two processes; where one dies, they are started again so many times."""

    def __init__(self, folder: Path, *arguments: str, restarts: int = 1) -> None:
        self._errors = folder / "errors"
        options = ["--nproc-per-node=2", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *options]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*torchrun, *arguments],
                cwd=folder,
                env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
                stderr=errors,
            )

    def wait_for(self, found: Callable[[], bool]) -> None:
        while not found():
            assert self.process.poll() is None, self.errors
            time.sleep(0.05)

    def end(self) -> int:
        return self.process.wait()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def lines(self) -> list[str]:
        """What the command said at its ends."""
        return [line for line in self.errors.splitlines() if line.startswith("edufast: ")]

    @property
    def ranks(self) -> list[int]:
        """Process numbers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in children.split()]


def epochs(run: Path) -> list[tuple[int, int]]:
    if not (run / "metrics.jsonl").exists():
        return []
    return [(e["grade"], e["epoch"]) for e in events(run) if e["event"] == "epoch"]


def test_processes_restart_when_one_is_killed_stop_together_and_go_on_to_the_same_weights(tmp_path):
    """A soak of seconds; `make soak` takes an hour and watches memory, too."""
    soak, run = soak_tool(), tmp_path / "stopped"
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (code, _, told), _ = together("train", tmp_path / "recipe.yaml", "--out", tmp_path / "whole")
    assert code == 0, told
    started = Started(tmp_path, "-m", "edufast", "train", "recipe.yaml", "--out", "stopped")

    started.wait_for(lambda: len(epochs(run)) > 1)
    os.kill(started.ranks[1], signal.SIGKILL)
    started.wait_for(lambda: len(started.lines) > 0)
    (line,) = started.lines
    assert re.match(
        "edufast: another process of this training has ended, or is silent: .*; the same", line
    )

    done, held = len(epochs(run)), []
    started.wait_for(lambda: len(epochs(run)) > done + 1)
    until = len(epochs(run)) + 4
    while len(epochs(run)) <= until:
        held.append(soak.used(started.ranks[1:]))  # of one that exports nothing meanwhile
        time.sleep(0.05)
    started.process.terminate()
    assert started.end() != 0
    assert started.lines == [line, "edufast: stopped; continue with: edufast resume stopped"]
    assert len(set(epochs(run))) < EPOCHS
    for what in ("threads", "descriptors"):  # least, since a file may just be open
        half = len(held) // 2
        before, after = (min(getattr(use, what) for use in x) for x in (held[:half], held[half:]))
        assert 0 < after <= before, (what, held)

    (code, _, told), _ = together("resume", run)
    assert code == 0, told
    found = epochs(run)
    assert sorted(set(found)) == [(1, epoch) for epoch in range(EPOCHS)]
    # An epoch that was logged, but not saved, when a process was killed, was done again.
    assert len(found) <= EPOCHS + 1
    (result,) = (e for e in events(run) if e["event"] == "result")
    assert result["samples"] == EPOCHS * SAMPLES
    assert soak.same(tmp_path)


SCRIPT = """
import glob, sys, time, traceback
import torch, edufast
from edufast.distill import KD
from edufast.training.settings import SchoolOptions
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

class Failing(KD):
    def logit_loss(self, *arguments):
        if torch.distributed.get_rank() == 1:
            raise OSError("the disk of the second rank")
        return super().logit_loss(*arguments)

def school(algorithm):
    curriculum = edufast.Curriculum.single(range(6), 1, teachers=[0], target="full")
    student = edufast.Student(tiny_model(), 1, input_size=(3, 16, 16))  # not seeded
    return edufast.School(
        student, tiny_faculty(range(6)), curriculum, tiny_data(), algorithm=algorithm,
        training=TRAINING,
    )

graduate = school("kd").fit()
sums = [sum(p.double().sum() for p in graduate.parameters())]
found = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
torch.distributed.all_gather(found, sums[0])
if torch.distributed.get_rank() == 0:
    open("same", "w").write(str(found[0] == found[1]))
try:
    school(Failing()).fit()
except Exception as error:
    # torchrun stops the other rank as soon as one has ended: neither ends before both have failed.
    traceback.print_exc()
    torch.distributed.destroy_process_group()
    open(f"failed {type(error).__name__}", "w").close()
    end = time.monotonic() + 60
    while len(glob.glob("failed *")) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    sys.exit(1)
"""


def test_a_school_in_a_script_trains_on_all_and_ends_on_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "script.py").write_text(SCRIPT)
    started = Started(tmp_path, "script.py", restarts=0)
    assert started.end() != 0
    assert (tmp_path / "same").read_text() == "tensor(True)", started.errors
    assert "UserError: Failing.logit_loss: OSError: the disk of the second" in started.errors
    assert "LostRank: another process of this training has ended" in started.errors
    assert started.errors.count("epoch 1/1") == 1
