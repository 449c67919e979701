"""What tests of benchmarks share."""

import pytest
import torch


@pytest.fixture
def not_compiled(monkeypatch):
    """Compiled rivals run eagerly: the same arithmetic, at once."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
