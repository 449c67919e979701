"""Targets by name, and users' own."""

from __future__ import annotations

import pytest

from edufast.teachers.targets import TARGETS, find_target, register_target
from edufast.teachers.targets.joint import joint
from edufast.utils.errors import UserError


@pytest.fixture(autouse=True)
def registrations_are_forgotten(monkeypatch):
    monkeypatch.setattr(TARGETS, "_entries", dict(TARGETS._entries))


def test_names_stand_for_functions_that_merge_or_for_themselves():
    assert find_target("joint") is joint
    assert [find_target(name) for name in ("routed", "full", "none")] == ["routed", "full", "none"]


def test_a_target_is_found_by_decorator_import_path_and_entry_point(mypackage):
    @register_target("own")
    def own(teachers, temperature):
        return teachers.assemble(teachers.logits)

    assert find_target("own") is own
    mypackage.write(targets="def mine(teachers, temperature): return teachers.logits[0]\n")
    mypackage.declare("edufast.targets", favourite="mypackage.targets:mine")
    assert find_target("favourite") is find_target("mypackage.targets:mine")


def test_what_is_no_target_is_told():
    for name, message in (
        ("half", "target is 'half'; expected one of routed, full, none, gated, joint, centred, en"),
        ("centered", "did you mean 'centred'"),
        ("os:path", "target 'os:path' is a module; expected a class or function that makes a Tens"),
    ):
        with pytest.raises(UserError, match=message):
            find_target(name)
