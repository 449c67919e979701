"""What ranks know of each other, and agree on."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from edufast.utils import ranks
from edufast.utils.errors import LostRank, UserError
from tests.pair import free_port, on_ranks

CPU = torch.device("cpu")


def who() -> tuple[int, int, bool, list[int]]:
    return ranks.rank(), ranks.size(), ranks.is_first(), list(range(5))[ranks.own_rows()]


def test_each_process_knows_which_it_is_and_takes_every_nth_row():
    assert on_ranks(who) == [(0, 2, True, [0, 2, 4]), (1, 2, False, [1, 3])]
    assert who() == (0, 1, True, [0, 1, 2, 3, 4])


def test_a_rank_ends_when_the_torchrun_that_started_it_is_gone(monkeypatch):
    parents, ends = iter([7, 7, 1]), []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(ranks, "_ASK_EVERY", 0.0)
    ranks._end_with(7)
    assert ends == [1] and next(parents, None) is None


def asked() -> tuple[int, int]:
    calls = []

    def answer(number: int) -> int:
        calls.append(number)
        return number + ranks.rank()

    return ranks.from_first(answer, 5), len(calls)


def test_one_rank_answers_for_all():
    assert on_ranks(asked) == [(5, 1), (5, 0)]
    assert asked() == (5, 1)


def failing() -> str:
    def fail() -> None:
        raise FileNotFoundError("no such recipe")

    try:
        ranks.from_first(fail)
    except (FileNotFoundError, LostRank) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_what_one_rank_fails_at_fails_for_all_and_nobody_waits():
    assert on_ranks(failing) == [
        "FileNotFoundError: no such recipe",
        "LostRank: the first process of this training has failed",
    ]


def stopped(told: list[int], calls: int) -> list[bool]:
    """The answers at each step, where rank r is told to stop at step ``told[r]``."""
    step = 0
    stop = ranks.Stop(lambda: step >= told[ranks.rank()], CPU)
    answers = []
    for step in range(calls):
        answers.append(stop(now=step == calls - 1))
    return answers


@pytest.mark.parametrize("told", [[2, 9999], [9999, 2]])
def test_everybody_stops_at_the_same_step_whichever_was_told(told):
    first, second = on_ranks(stopped, told, 300)
    assert first == second and any(first) and not any(first[:2])


def test_nobody_stops_who_was_not_told():
    assert not any(on_ranks(stopped, [9999, 9999], 50)[0])


def test_the_end_of_an_epoch_asks_in_any_case():
    for answers in on_ranks(stopped, [9999, 49], 50):
        assert answers[-1]


def test_a_single_process_stops_at_once():
    assert stopped([2], 4) == [False, False, True, True]


def test_a_collective_that_fails_means_a_lost_rank():
    message = r"another process of this training has ended, or is silent: \[x\] reset"
    with pytest.raises(LostRank, match=message), ranks.together():
        raise RuntimeError("[x]\nreset")


def test_a_rank_that_is_gone_is_not_waited_for_as_long_as_the_first_one():
    ports = [free_port(), free_port()]
    assert on_ranks(impatient, ports) == [("done", "LostRank"), ("done", "")]


def impatient(ports: list[int]) -> tuple[str, str]:
    patience, ranks._PATIENCE = ranks._PATIENCE, timedelta(seconds=1)
    joined_at(ports[0])
    try:
        done = ranks.from_first(lambda: time.sleep(3) or "done")
        if not ranks.is_first():  # its machine is gone
            ranks._store.wait(["noticed"])
            return done, ""
        try:
            with ranks.together():
                dist.all_reduce(torch.zeros(1))
        except LostRank as error:
            return done, type(error).__name__
        finally:
            ranks._store.set("noticed", "")
    finally:
        ranks._PATIENCE = patience
        joined_at(ports[1])
    return done, ""


def joined_at(port: int) -> None:
    """The pair joins anew."""
    ranks.leave(failed=True)
    os.environ["MASTER_PORT"] = str(port)
    assert ranks.join()


def test_variables_that_torchrun_did_not_set_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE is '2', but .*RANK.*; expected the variables"):
        ranks.join()


@pytest.mark.parametrize("number", [None, "", "1"])
def test_a_process_of_its_own_joins_nobody(number, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    if number is None:
        monkeypatch.delenv("WORLD_SIZE")
    assert not ranks.join() and ranks.size() == 1


def test_one_rank_tells_why_the_command_ends(monkeypatch):
    assert sorted(on_ranks(told_twice)) == [(False, False, True), (True, False, True)]
    # Before they are connected, it is the first.
    for number, tells in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", number)
        assert ranks.first_to_tell() is tells


def told_twice() -> tuple[bool, bool, bool]:
    forget_what_was_told()
    return ranks.first_to_tell(), ranks.first_to_tell(), ranks.others_told()


def forget_what_was_told() -> None:
    """The pair lives longer than a command."""
    ranks.wait()
    if ranks.is_first():
        ranks._store.delete_key("told")
    ranks.wait()


def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    ranks.check_device(CPU)
    with pytest.raises(UserError, match="torchrun started 4 processes on a machine with 2 GPUs"):
        ranks.check_device(torch.device("cuda"))
    with pytest.raises(UserError, match="device is cuda:1 on 4 ranks; expected cuda"):
        ranks.check_device(torch.device("cuda", 1))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    ranks.check_device(torch.device("cuda"))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "^WORLD_SIZE is 'two'; expected a number, as torchrun sets it$"),
        ({"WORLD_SIZE": "0"}, "^WORLD_SIZE is '0'; expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "^RANK is '-1'; expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "^RANK is 2; expected less than WORLD_SIZE, 2$"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "a"}, "^LOCAL_RANK is 'a'; expected a number"),
    ],
)
def test_variables_that_torchrun_would_not_set_are_named_and_nobody_waits(
    variables, message, monkeypatch
):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        ranks.join()


def test_a_port_that_is_taken_is_told_in_one_line(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        variables = {
            "WORLD_SIZE": "2",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(taken.getsockname()[1]),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"^WORLD_SIZE is '2', but .*address already in use"):
            ranks.join()
