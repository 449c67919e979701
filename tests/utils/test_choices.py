"""Words that settings are one of."""

from __future__ import annotations

from typing import get_args

from edufast.experiments.training_section import TrainingSection
from edufast.utils import choices
from tests.test_import import loaded


def test_they_and_what_checks_recipes_are_there_without_torch() -> None:
    assert "torch" not in loaded("import edufast.utils.choices, edufast.experiments.written")


def test_the_defaults_of_recipes_are_among_them() -> None:
    section = TrainingSection()
    for name in ("mix", "optimizer", "precision", "compile"):
        assert getattr(section, name) in get_args(getattr(choices, name.title()))
