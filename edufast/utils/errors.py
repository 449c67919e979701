"""Exceptions that the command line turns into a single line."""

from __future__ import annotations


class UserError(ValueError):
    """Something a user typed (a path, a recipe value, an argument) cannot be used as it is."""


class TrainingError(RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C); what was done so far is saved."""
