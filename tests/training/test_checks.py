"""What a School refuses; more of it is in test_school.py."""

from __future__ import annotations

import pytest

from edufast.training import checks
from edufast.utils.errors import UserError
from tests.pair import on_ranks
from tests.training.equality import CASES


def test_a_batch_has_a_sample_for_each_rank(monkeypatch):
    checks.check_batch(1)
    monkeypatch.setattr(checks, "size", lambda: 3)
    checks.check_batch(3)
    with pytest.raises(UserError, match="a batch has 2 samples; expected at least one for each of"):
        checks.check_batch(2)


def on_a_gpu_of_its_number() -> str:
    case = CASES["target none"]
    try:
        case.school(device="cuda:1")
    except UserError as error:
        return str(error)
    return ""


def test_a_school_says_on_every_rank_what_it_refuses():
    assert all("cuda:1" in message for message in on_ranks(on_a_gpu_of_its_number))
