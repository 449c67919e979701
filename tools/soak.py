"""Kill and resume a training at random: it must end with the weights of an undisturbed one.

    python tools/soak.py [FOLDER] [--minutes 60] [--processes 2] [--seed 0]

For a quarter of the time one long training is watched: its memory, threads and descriptors must not
grow. Then, round after round, a small one runs through, and once more with random signals to
torchrun or to one of its processes, resumed each time. Exit code 1, and what differed, if anything
did.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from safetensors.torch import load_file

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST_STOPS = 8  # of a training
SAMPLE_SECONDS, LEAST_SAMPLES = 0.5, 20
MEMORY_SLACK = 1.03  # allocators round up


class Use(NamedTuple):
    """What the processes of a training hold together."""

    memory: int  # bytes
    threads: int
    descriptors: int


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("folder", nargs="?", type=Path, default=Path("runs/soak"))
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    ends = time.monotonic() + 60 * asked.minutes
    shutil.rmtree(asked.folder, ignore_errors=True)
    found = grown(watched(asked.folder / "long", asked.processes, 15 * asked.minutes))
    rng, number = random.Random(asked.seed), 0
    while time.monotonic() < ends:
        found += soaked(asked.folder / str(number), asked.processes, number, rng)
        number += 1
    print(f"{number} trainings were stopped and resumed: " + ("; ".join(found) or "all equal"))
    sys.exit(bool(found))


def watched(folder: Path, processes: int, seconds: float) -> list[Use]:
    """What a training held that was stopped after ``seconds``."""
    process = start(folder, processes, "curriculum.epochs=100000")
    ends, samples = time.monotonic() + seconds, []
    while time.monotonic() < ends and process.poll() is None:
        if "epoch" in text_of(folder / "metrics.jsonl"):  # once the first one has ended
            samples.append(used(ranks(process)))
        time.sleep(SAMPLE_SECONDS)
    stop(process, signal.SIGTERM)
    if len(samples) < LEAST_SAMPLES:
        sys.exit(f"{folder} had hardly begun after {seconds:.0f} s; expected more --minutes")
    return samples


def grown(samples: list[Use]) -> list[str]:
    """What was more in the last quarter of ``samples`` than in the one before."""
    quarter = len(samples) // 4
    found = []
    for name, slack in (("memory", MEMORY_SLACK), ("threads", 1.0), ("descriptors", 1.0)):
        values = [getattr(use, name) for use in samples]
        before, after = fmean(values[2 * quarter : 3 * quarter]), fmean(values[3 * quarter :])
        print(f"{name}: {before:,.0f}, then {after:,.0f}", flush=True)
        if after > before * slack + 0.5:
            found.append(f"{name} grew from {before:,.0f} to {after:,.0f}")
    return found


def soaked(folder: Path, processes: int, seed: int, rng: random.Random) -> list[str]:
    """What differs between a training that ran through and one that was stopped at random."""
    began = time.monotonic()
    if start(folder / "whole", processes, seed=seed).wait():
        return [f"{folder / 'whole'} failed"]
    whole = time.monotonic() - began
    for stops in range(MOST_STOPS + 1):
        process = start(folder / "stopped", processes, seed=seed)
        try:
            if process.wait(None if stops == MOST_STOPS else rng.uniform(0, whole)):
                return [f"{folder / 'stopped'} failed"]
            break
        except subprocess.TimeoutExpired:
            number, one = rng.choice(SIGNALS), rng.random() < 0.3
            print(f"{folder}: {number.name} to {'one process' if one else 'torchrun'}", flush=True)
            stop(process, number, rng.choice(ranks(process) or [process.pid]) if one else None)
    return [] if same(folder) else [f"{folder} differs"]


def same(folder: Path) -> bool:
    whole, stopped = (
        load_file(folder / run / "student.safetensors") for run in ("whole", "stopped")
    )
    return whole.keys() == stopped.keys() and all(
        torch.equal(tensor, stopped[name]) for name, tensor in whole.items()
    )


def start(run: Path, processes: int, *changes: str, seed: int = 0) -> subprocess.Popen[bytes]:
    """The training, or the rest of it, in a group of processes of its own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    given = [word for change in (f"seed={seed}", *changes) for word in ("--set", change)]
    command = ["train", "digits", "--out", str(run), *given]
    if (run / "config.yaml").exists():
        command = ["resume", str(run)]
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [*torchrun, "--standalone", "-m", "edufast", *command],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], number: signal.Signals, only: int | None = None) -> None:
    """Send a signal to torchrun, or only to a process of its, and wait until the last has ended.

    torchrun passes signals on, but for SIGKILL: then its processes notice that it is gone.
    """
    started = ranks(process)
    with suppress(ProcessLookupError):  # it had just ended
        os.kill(process.pid if only is None else only, number)
    process.wait()
    while any(Path(f"/proc/{rank}").exists() for rank in started):
        time.sleep(0.1)


def used(processes: list[int]) -> Use:
    found = []
    for number in processes:
        try:
            pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
            counts = [len(os.listdir(f"/proc/{number}/{what}")) for what in ("task", "fd")]
        except OSError:  # it has ended
            continue
        found.append((pages * os.sysconf("SC_PAGE_SIZE"), *counts))
    return Use(*map(sum, zip(*found, strict=True))) if found else Use(0, 0, 0)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def ranks(process: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in children.read_text().split()]


if __name__ == "__main__":
    main()
