"""The one exception the command line turns into a single line and exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """Something a user typed (a path, a recipe value, an argument) cannot be used as it is."""
